"""The shared engine keeps no records of purges: it refuses to purge, and to be told of purges.

A peer that wants to tell a node of the site shows the reason in its status (purges-not-taken).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.index import EntryKey
from federation.core.purges import Purge, Purgeable, PurgeOutcome, PurgePage

UNSUPPORTED = "the shared storage engine of this node does not support purges"


class SitePurges:
    """See federation.core.purges.Purges."""

    def __repr__(self) -> str:
        return "<SitePurges>"

    async def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        """Raise InvalidRequest."""
        raise InvalidRequest(f"{UNSUPPORTED}: {len(things)} names were not purged for {by}")

    async def apply(self, purges: Sequence[Purge]) -> int:
        """Raise InvalidRequest for any record."""
        if purges:
            raise InvalidRequest(UNSUPPORTED)
        return 0

    async def page(self, after: int, limit: int) -> PurgePage:
        """Return no records."""
        del limit
        return PurgePage([], after)

    async def blobs_among(self, digests: Collection[Digest]) -> set[Digest]:
        """Return none."""
        del digests
        return set()

    async def entries_among(self, keys: Collection[EntryKey]) -> set[EntryKey]:
        """Return none."""
        del keys
        return set()
