"""Telling one peer what is pinned here, where its configuration says so (peers[].pins).

There are few pins, so the peer is told all of them whenever it was met anew, and changes
afterwards. Of what it knows already it takes nothing over.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from federation.core.clock import Clock
from federation.core.pins import Pin, Pins
from federation.replication.gate import AnsweredCall, refusal
from federation.replication.peer_api import PeerApi
from federation.replication.purge_sender import AGAIN_S, NOT_OURS

_AT_ONCE = 500
_LOOK_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class PinSender:
    """Tells one peer."""

    def __init__(
        self, name: str, pins: Pins, api: PeerApi, answered_call: AnsweredCall, clock: Clock
    ) -> None:
        self._name = name
        self._pins = pins
        self._api = api
        self._answered_call = answered_call
        self._clock = clock
        self._told = 0
        self.trouble = ""  # why the peer takes no records, for people; empty: it does

    def __repr__(self) -> str:
        return f"<PinSender {self._name} told up to {self._told}>"

    async def run(self) -> None:
        """Tell the peer of all pins, and then of changes for ever. Raises the records' errors."""
        # Not kept in a record: there are few, and a peer that is met anew may have lost them.
        self._told = 0
        while True:
            page = await self._pins.page(self._told, _AT_ONCE)
            if not page.pins:
                await self._clock.sleep(_LOOK_EVERY_S)
            elif await self._tell(page.pins):
                self._told = page.last
            else:
                await self._clock.sleep(AGAIN_S)

    async def _tell(self, pins: Sequence[Pin]) -> bool:
        """Return whether the peer has taken them."""
        reason = NOT_OURS
        if self._api.identity.node_id:
            refused = await refusal(self._answered_call, lambda: self._api.tell_pins(pins))
            reason = "" if refused is None else refused.reason
        if reason and not self.trouble:
            _log.warning("pins_not_taken", peer=self._name, reason=reason)
        self.trouble = reason
        return not reason
