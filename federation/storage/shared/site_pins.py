"""The shared engine keeps no pins: it refuses to pin, and to be told of pins.

A peer that wants to tell a node of the site shows the reason in its status (pins-not-taken).
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.core.errors import InvalidRequest
from federation.core.pins import Pin, PinPage

PINS_UNSUPPORTED = "the shared storage engine of this node does not support pins"


class SitePins:
    """See federation.core.pins.Pins."""

    def __repr__(self) -> str:
        return "<SitePins>"

    async def apply(self, pins: Sequence[Pin]) -> int:
        """Raise InvalidRequest for any record."""
        if pins:
            raise InvalidRequest(PINS_UNSUPPORTED)
        return 0

    async def page(self, after: int, limit: int) -> PinPage:
        """Return no records."""
        del limit
        return PinPage([], after)
