"""Telling one peer what was purged here, before anything else that this could concern.

Whoever asks the peer about blobs calls bring() first. A peer answers that it lacks none of the
blobs that are purged there, so that nobody sends them. If a client has pushed one again here, the
peer has to know that before it is asked: otherwise it would let the new blob fall.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.purges import Purge, Purges
from federation.replication.gate import AnsweredCall, refusal
from federation.replication.outcomes import SendOutcome, parked, skipped
from federation.replication.peer_api import PeerApi

AT_ONCE = 500
NEEDS_PURGED = skipped("it needs a purged blob")
NOT_OURS = "it is no node of this project, or does not take this one for a peer"
AGAIN_S = 60.0  # after a peer took no records
_LOOK_EVERY_S = 0.5

_log = structlog.get_logger(__name__)


class ToldPurges:
    """How far one peer was told, as its record has it."""

    def __init__(self, read: Callable[[], int], write: Callable[[int], None]) -> None:
        """read, write: the number up to which it was."""
        self.read = read
        self.write = write


class PurgeSender:
    """Tells one peer."""

    def __init__(
        self,
        name: str,
        purges: Purges,
        api: PeerApi,
        answered_call: AnsweredCall,
        told: ToldPurges,
        clock: Clock,
    ) -> None:
        self._name = name
        self._purges = purges
        self.are_purged = purges.blobs_among
        self._api = api
        self._answered_call = answered_call
        self._told = told
        self._clock = clock
        self._telling = asyncio.Lock()
        self._again_s = 0.0  # monotonic
        self._watchers: list[Callable[[Collection[Digest]], None]] = []
        self.has_told_all = False  # up to the last look
        self.trouble = ""  # why the peer takes no records, for people; empty: it does
        self._told_ever = told.read()  # the highest number up to which it was
        self._told_late = False

    def __repr__(self) -> str:
        return f"<PurgeSender {self._name} told up to {self._told.read()}>"

    async def not_needed(self, missing: Collection[Digest]) -> set[Digest]:
        """Return those of missing blobs that the peer does without, because they were purged."""
        # The peer does not know of the purge, so it would miss the blob.
        if self.of_entry_without_blob() is not None:
            return set()
        return await self.are_purged(missing)

    def of_entry_without_blob(self) -> SendOutcome | None:
        """Return what becomes of an entry that needs a blob which was purged; None: it is sent.

        The peer hides it, as this node does. But it may replace another value of its name, and a
        later push of the blob shows it at both. A peer that knows of no purges would serve it.
        """
        if not self._api.identity.node_id:
            return NEEDS_PURGED
        return parked(f"it needs a purged blob: {self.trouble}") if self.trouble else None

    def watch(self, watcher: Callable[[Collection[Digest]], None]) -> None:
        """Call watcher with the blobs that the peer was told of, each time."""
        self._watchers.append(watcher)

    async def run(self) -> None:
        """Tell the peer of everything new for ever. Raises the errors of the records."""
        while True:
            await self.bring()
            await self._clock.sleep(_LOOK_EVERY_S)

    async def bring(self) -> None:
        """Tell the peer of all that was recorded before this call.

        A peer that takes no records is tried again later, and everything else goes on. Raises
        the errors of the records.
        """
        # One at a time: who comes second needs what the first one tells, and finds nothing left.
        async with self._telling:
            while self._clock.monotonic_s() >= self._again_s:
                most = AT_ONCE if self._api.identity.node_id else 1  # whether there is any
                told = self._told.read()
                page = await self._purges.page(told, most)
                self.has_told_all = not page.purges
                if self.has_told_all:
                    return
                if not self._api.identity.node_id:
                    self.trouble = NOT_OURS
                    return
                was_in_trouble = bool(self.trouble)
                if not await self._tell(page.purges):
                    return
                # Records that are told again, as at a resync, were not told late.
                is_new = page.last > self._told_ever
                self._told_ever = max(self._told_ever, page.last)
                if was_in_trouble and is_new and any(each.is_allowed for each in page.purges):
                    self._told_late = True
                if self._told.read() == told:  # else a resync wants all of them told again
                    self._told.write(page.last)

    def take_told_late(self) -> bool:
        """Return whether blobs have to be offered again; asked once more, it is False.

        While the peer took no records, it was asked about blobs that had been pushed again here.
        For it they were purged still, so it answered that it needs none of them.
        """
        told_late, self._told_late = self._told_late, False
        return told_late

    def try_again(self) -> None:
        """Tell a peer that took no records again at the next look."""
        self._again_s = 0.0

    async def _tell(self, purges: Sequence[Purge]) -> bool:
        """Return whether the peer has taken them."""
        refused = await refusal(self._answered_call, lambda: self._api.tell_purges(purges))
        if refused is not None:
            self._again_s = self._clock.monotonic_s() + AGAIN_S
            if not self.trouble:
                _log.warning("purges_not_taken", peer=self._name, reason=refused.reason)
            self.trouble = refused.reason
            return False
        self.trouble = ""
        for watcher in self._watchers:
            watcher([each.thing for each in purges if isinstance(each.thing, Digest)])
        return True
