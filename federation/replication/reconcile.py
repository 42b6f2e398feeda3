"""All that is held here offered to a peer, so that it gets what the change log cannot tell of.

Goes page by page, most recently used first, and keeps its position in the record, so that it goes
on where it was interrupted. Live traffic comes first.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from federation.core.digest import Digest
from federation.core.replication_log import EntryHead, Lane, Page, Parked
from federation.replication.entry_sender import EntryToSend, Hole
from federation.replication.outcome import Fate, SendOutcome
from federation.replication.rules import When
from federation.replication.session import PeerSession

_log = structlog.get_logger(__name__)

PAGE_OBJECTS = 500
_YIELD_S = 0.05
_YIELDS_MAX = 200  # to live traffic, before a page; else it could wait for ever
_PAGES_A_CHECK = 1000  # at least so many parts has the interval of a check
_SHORT_PAUSE_S = 60.0


class Purpose(enum.Enum):
    """Why all is offered."""

    RESYNC = "resync"  # the log alone does not do
    REQUEST = "request"  # an operator asked, and what is sent by hand goes along
    CHECK = "check"  # to find what was lost without a word


class Phase(enum.Enum):
    """What is offered; entries come last, because they need the blobs."""

    BLOBS = "blobs"
    ENTRIES = "entries"


class Position(NamedTuple):
    """Where a walk stands, as a record keeps it."""

    purpose: Purpose
    phase: Phase = Phase.BLOBS
    at: str = ""  # the ledger's; empty: begin

    def __str__(self) -> str:
        return f"{self.purpose.value} {self.phase.value} {self.at}"


def read_position(text: str) -> Position | None:
    """Read what str() wrote; None for nothing, and for what another version may have written."""
    try:
        purpose, phase, at = text.split(" ", 2)
        return Position(Purpose(purpose), Phase(phase), at)
    except ValueError:
        return None


class Reconcile:
    """One walk for one lane of a peer."""

    def __init__(
        self,
        link: PeerSession,
        lane: Lane,
        is_idle: Callable[[], bool],
        keep: Callable[[Position], None],
    ) -> None:
        """Take note of what to walk for.

        Args:
            link: the peer.
            lane: whose rules decide.
            is_idle: whether this lane's live traffic is done.
            keep: called with each position from which the walk may be gone on with.
        """
        self._link = link
        self._lane = lane
        self._is_idle = is_idle
        self._keep = keep
        self.pages = 0
        self.offered = 0

    def __repr__(self) -> str:
        return f"<Reconcile of {self._link.name} {self._lane}, {self.offered} offered>"

    async def run(self, position: Position, pause_s: float = 0.0) -> None:
        """Go on from a position to the end. pause_s: between pages, for a check.

        Raises what the store and the ledger raise.
        """
        while True:
            self._keep(position)
            page = await self._page(position)
            await self._give_way()
            if position.phase is Phase.BLOBS:
                await self._offer_blobs(position.purpose, page)
            else:
                await self._offer_entries(position.purpose, await self._heads(position, page))
            self.pages += 1
            if page.next is not None:
                position = position._replace(at=page.next)
            elif position.phase is Phase.BLOBS:
                position = position._replace(phase=Phase.ENTRIES, at="")
            else:
                return
            if pause_s:
                await self._link.clock.sleep(pause_s)

    async def _page(self, position: Position) -> Page:
        ledger = self._link.ledger
        walk = ledger.blobs if position.phase is Phase.BLOBS else ledger.entries
        return await walk(position.at or None, PAGE_OBJECTS)

    async def _heads(self, position: Position, page: Page) -> list[EntryHead]:
        """Return what of a page's entries is for this lane; their values are let go of."""
        rules = self._link.rules
        wanted = [
            entry.key
            for entry in page.entries
            if self._wants(rules.of_entry(entry.key, entry.label).when, position.purpose)
            and rules.takes_from(entry.source)
        ]
        heads = await self._link.ledger.heads_at(wanted)
        return [head for head in heads if head is not None]  # others are gone meanwhile

    async def _give_way(self) -> None:
        """Let live traffic pass, but not for ever."""
        for _ in range(_YIELDS_MAX):
            if self._is_idle():
                return
            await self._link.clock.sleep(_YIELD_S)

    def _wants(self, when: When, purpose: Purpose) -> bool:
        if when is When.MANUAL:
            return purpose is Purpose.REQUEST and self._lane is Lane.ALWAYS
        return when is (When.WINDOW if self._lane is Lane.WINDOW else When.ALWAYS)

    async def _offer_blobs(self, purpose: Purpose, page: Page) -> None:
        link, rules = self._link, self._link.rules
        digests = [
            digest
            for digest in page.digests
            if self._wants(rules.of_blob(digest), purpose)
            and (rules.sends_pulled or digest not in page.pulled)
        ]
        self.offered += len(digests)
        if purpose is not Purpose.RESYNC:
            digests = await self._lost(digests)
        parked: list[Parked] = []

        def told(ended: Sequence[Digest], outcome: SendOutcome) -> None:
            link.count(outcome, sum(digest.size_bytes for digest in ended), len(ended))
            if outcome.fate is Fate.PARKED:
                parked.extend(link.parked(0, each, str(each), outcome.reason) for each in ended)

        await link.shipper.ship(digests, (), told)
        await link.ledger.park(parked)

    async def _lost(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return what the peer has not; where it should have all, count that as forgotten."""
        link = self._link
        up_to_date = self._is_idle()
        missing = await link.shipper.lacking(digests, anew=True)
        if not missing:
            return []
        counts = await link.ledger.parked_counts()
        if up_to_date and not counts.get(link.name):
            link.shipper.sender.note_forgotten(sorted(missing))
        return [digest for digest in digests if digest in missing]

    async def _offer_entries(self, purpose: Purpose, heads: Sequence[EntryHead]) -> None:
        link, rules = self._link, self._link.rules
        self.offered += len(heads)
        parked: list[Parked] = []

        async def offer(now: EntryHead) -> None:
            bounds = rules.of_entry(now.key, now.label).bounds
            # A node of ours knows by the stamp which value is the newer one. A check is about
            # what is lost; what differs is the log's matter.
            keeps_theirs = not link.node_id or purpose is Purpose.CHECK
            outcome = await link.entries.send(
                EntryToSend(now, (), bounds, Hole.SKIP, True, keeps_theirs)
            )
            link.count(outcome, now.value_bytes)
            if outcome.fate is Fate.PARKED:
                parked.append(link.parked(0, now.key, now.label, outcome.reason))

        async with asyncio.TaskGroup() as group:
            for now in heads:
                group.create_task(offer(now))
        await link.ledger.park(parked)


def pause_of_check(check_every_s: float, pages: int) -> float:
    """Return how long a check rests between pages, so that it takes up the time it has.

    pages: of the last one; 0 when there was none.
    """
    if not pages:
        return min(_SHORT_PAUSE_S, check_every_s / _PAGES_A_CHECK)
    return check_every_s / max(pages + 1, 2) * 0.9
