"""Offering everything held here to a peer, so that it gets what the change log does not show.

Goes by pages, most recently used first, several at once, and keeps its position in the record, so
that it goes on where it was interrupted. Live traffic goes on beside it: of the batches under way
at most half are the walk's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.index import EntryKey
from federation.core.replication_log import EntryHead, Lane, Page, Parked
from federation.core.store import SMALL_BLOB_BYTES
from federation.core.tasks import first_of
from federation.replication.blob_sender import LARGE_AT_ONCE
from federation.replication.entry_sender import EntryToSend, Hole
from federation.replication.fit import Fit
from federation.replication.outcomes import Fate, SendOutcome
from federation.replication.peer_api import ObjectHistory
from federation.replication.rules import When
from federation.replication.schedule import Position, Purpose, WalkPhase
from federation.replication.session import PeerSession

PAGE_OBJECTS = 500
SUMMARY_OBJECTS = 2000  # in a page of blobs that is compared by its summary
PAGES_AT_ONCE = 4
PAGES_OPEN_MAX = 64  # those that wait for large blobs included
ENTRIES_AT_ONCE = 24  # of the 32 calls that a peer gets at once: the others are for live traffic
_PART_BYTES = 16 * 2**20
_CHECK_SHARE = 0.5
_ALIKE_S, _ALIKE_SHARE = 60.0, 0.05  # by how much times of one batch may differ


class _Open:
    """Pages under way. After an interruption the walk goes on from the first of them."""

    def __init__(self) -> None:
        self._positions: dict[int, Position] = {}  # in order
        self._begun = 0
        self.busy = 0  # pages whose small objects are under way
        self.moved = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self._positions)

    @property
    def first(self) -> Position | None:
        return next(iter(self._positions.values()), None)

    def begin(self, position: Position) -> int:
        self._begun += 1
        self._positions[self._begun] = position
        self.busy += 1
        return self._begun

    def end_small(self) -> None:
        self.busy -= 1
        self.moved.set()

    def end(self, number: int) -> None:
        del self._positions[number]
        self.moved.set()


class Reconcile:
    """One walk in one lane of a peer."""

    def __init__(
        self,
        session: PeerSession,
        lane: Lane,
        is_idle: Callable[[], bool],
        keep: Callable[[Position], None],
    ) -> None:
        """Prepare a walk.

        Args:
            session: the peer.
            lane: whose rules decide.
            is_idle: whether this lane's live traffic is done.
            keep: called with each position from which the walk may be gone on with.
        """
        self._session = session
        self._lane = lane
        self._is_idle = is_idle
        self._keep = keep
        self._open = _Open()
        self._entries = asyncio.Semaphore(ENTRIES_AT_ONCE)
        self.fit = Fit()
        self.pages = 0
        self.offered = 0

    def __repr__(self) -> str:
        return f"<Reconcile of {self._session.name} {self._lane}, {self.offered} offered>"

    async def run(self, position: Position, pause_s: float = 0.0) -> None:
        """Walk from a position to the end. pause_s: rest between pages, for a check.

        Several pages are under way, and more wait for large blobs alone. Ends early where the peer
        evicts what it is sent: see fit. Raises what the store and the change log raise.
        """
        try:
            if position.phase is WalkPhase.BLOBS:
                await self._walk(position, pause_s)
                position = position._replace(phase=WalkPhase.ENTRIES, at="")
            await self._walk(position, pause_s)
        except ExceptionGroup as errors:
            raise first_of(errors) from None

    async def _walk(self, position: Position, pause_s: float) -> None:
        """Walk through one phase, and wait for its pages."""
        self._keep(position)
        async with asyncio.TaskGroup() as group:
            # Entries go on: their values are small, and go only where all that they name is held.
            while not (self.fit.evicts and position.phase is WalkPhase.BLOBS):
                page = await self._page(position)
                number = self._open.begin(position)
                group.create_task(self._offer(number, position, page))
                if page.next is None:
                    return
                position = position._replace(at=page.next)
                await self._room(position)
                if pause_s:
                    await self._session.clock.sleep(pause_s)

    async def _room(self, following: Position) -> None:
        """Wait until one more page may be begun."""
        pages = self._open
        while pages.busy >= PAGES_AT_ONCE or pages.count >= PAGES_OPEN_MAX:
            pages.moved.clear()
            await pages.moved.wait()
        # The first that has not ended: what later ones have sent is present when asked about again.
        self._keep(pages.first or following)

    async def _offer(self, number: int, position: Position, page: Page) -> None:
        pages, purpose = self._open, position.purpose
        ages = _Ages(page, self._session.clock)
        try:
            if position.phase is WalkPhase.ENTRIES:
                heads = await self._heads(position, page)
                await self._offer_entries(purpose, heads, ages)
                large: list[Digest] = []
            else:
                large = await self._offer_small(purpose, page, ages)
        finally:
            pages.end_small()
        # The page has made room for the next one by now: large blobs may take hours.
        for at in range(0, len(large), LARGE_AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for digest in large[at : at + LARGE_AT_ONCE]:
                    group.create_task(self._bring([digest], ages))
        self.pages += 1
        pages.end(number)

    async def _page(self, position: Position) -> Page:
        change_log = self._session.change_log
        walk = change_log.blobs if position.phase is WalkPhase.BLOBS else change_log.entries
        return await walk(position.at or None, _page_objects(position))

    async def _heads(self, position: Position, page: Page) -> list[EntryHead]:
        """Return the heads of those entries of a page that are for this lane."""
        rules = self._session.rules
        wanted = [
            entry.key
            for entry in page.entries
            if self._wants(rules.of_entry(entry.key, entry.label).when, position.purpose)
            and rules.takes_from(entry.source)
        ]
        heads = await self._session.change_log.heads_at(wanted)
        return [head for head in heads if head is not None]  # others are gone meanwhile

    def _wants(self, when: When, purpose: Purpose) -> bool:
        if when is When.MANUAL:
            return purpose is Purpose.REQUEST and self._lane is Lane.ALWAYS
        return when is (When.WINDOW if self._lane is Lane.WINDOW else When.ALWAYS)

    async def _offer_small(self, purpose: Purpose, page: Page, ages: _Ages) -> list[Digest]:
        """Send the small blobs of a page; return the large ones."""
        rules = self._session.rules
        digests = [
            digest
            for digest in page.digests
            if self._wants(rules.of_blob(digest), purpose)
            and (rules.sends_pulled or digest not in page.pulled)
        ]
        self.offered += len(digests)
        if purpose is Purpose.CHECK:
            # The summary's "lacks" may be wrong, so FindMissing is asked about those few below.
            digests = await self._absent(digests)
        # In a resync blobs are lacking by nature: nothing was lost, and ship() asks anyway.
        if purpose is not Purpose.RESYNC and digests:
            digests = await self._lost(digests)
        small = [digest for digest in digests if digest.size_bytes <= SMALL_BLOB_BYTES]
        for part in _parts(small, ages):
            await self._bring(part, ages)
        return [digest for digest in digests if digest.size_bytes > SMALL_BLOB_BYTES]

    async def _bring(self, digests: Sequence[Digest], ages: _Ages) -> None:
        """Send what the peer lacks of these, unless it evicts what it is sent."""
        if self.fit.evicts:
            return
        session = self._session
        parked: list[Parked] = []

        def on_outcome(ended: Sequence[Digest], outcome: SendOutcome) -> None:
            session.count(outcome, sum(digest.size_bytes for digest in ended), len(ended))
            if outcome.fate is Fate.PARKED:
                parked.extend(session.parked(0, each, str(each), outcome.reason) for each in ended)
            elif outcome.fate is Fate.SENT:
                self.fit.delivered(ended)

        history = ObjectHistory(unused_s=min(map(ages.unused_s, digests)))
        await session.shipper.ship(digests, history, on_outcome, is_behind=True)
        if parked:
            await session.change_log.park(parked)
        # By the question that leases nothing: a lease would keep the peer from evicting these.
        if sample := self.fit.sample():
            self.fit.answered(sample, await session.shipper.absent(sample))

    async def _absent(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return what the peer seems to lack by its summary: nearly always nothing."""
        absent = await self._session.shipper.absent(digests)
        return [digest for digest in digests if digest in absent]

    async def _lost(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return what the peer lacks; count it as forgotten if the peer should have everything."""
        session = self._session
        # Before the question: a row that comes while it is answered is lacking, and not lost.
        up_to_date = self._is_idle()
        missing = await session.shipper.lacking(digests, anew=True)
        if not missing:
            return []
        counts = await session.change_log.parked_counts()
        if up_to_date and not counts.get(session.name):
            session.shipper.sender.note_forgotten(sorted(missing))
        return [digest for digest in digests if digest in missing]

    async def _offer_entries(
        self, purpose: Purpose, heads: Sequence[EntryHead], ages: _Ages
    ) -> None:
        session, rules = self._session, self._session.rules
        self.offered += len(heads)
        parked: list[Parked] = []

        async def offer(now: EntryHead) -> None:
            bounds = rules.of_entry(now.key, now.label).bounds
            if self.fit.evicts:
                bounds = bounds.nothing()  # entries go only where the peer holds the closure
            # A node of this project decides by the stamp. A check is about what is lost; values
            # that differ are sent by the change log.
            keeps_theirs = not session.node_id or purpose is Purpose.CHECK
            unused_s = ages.unused_s(now.key)
            offered = EntryToSend(now, (), bounds, Hole.SKIP, True, keeps_theirs, unused_s)
            async with self._entries:
                outcome = await session.entries.send(offered)
            session.count(outcome, now.value_bytes)
            if outcome.fate is Fate.PARKED:
                parked.append(session.parked(0, now.key, now.label, outcome.reason))

        async with asyncio.TaskGroup() as group:
            for now in heads:
                group.create_task(offer(now))
        if parked:
            await session.change_log.park(parked)


class _Ages:
    """For how long no client has used the objects of a page, at the moment of asking."""

    def __init__(self, page: Page, clock: Clock) -> None:
        things: list[Digest | EntryKey] = [*page.digests, *(each.key for each in page.entries)]
        self._unused_s: dict[Digest | EntryKey, float] = dict(
            zip(things, page.unused_s, strict=False)
        )
        self._read_s = clock.monotonic_s()
        self._clock = clock

    def unused_s(self, thing: Digest | EntryKey) -> float:
        """Return it for one; 0 where the page does not say. Large blobs may wait for hours."""
        found = self._unused_s.get(thing)
        if found is None:
            return 0.0
        return found + self._clock.monotonic_s() - self._read_s

    def are_alike(self, one: Digest, other: Digest) -> bool:
        """Whether both may be sent as unused for the same time."""
        a, b = self._unused_s.get(one, 0.0), self._unused_s.get(other, 0.0)
        return abs(a - b) <= max(_ALIKE_S, _ALIKE_SHARE * min(a, b))


def _parts(digests: Sequence[Digest], ages: _Ages) -> Iterator[list[Digest]]:
    """Yield them in order, so many together that it is noticed in time if a peer evicts them.

    What goes together is sent as used at one time, so those of a part were used at about the same.
    In steps of a twentieth, the times of a whole year make some 270 parts.
    """
    part: list[Digest] = []
    size_bytes = 0
    for digest in digests:
        if part and not ages.are_alike(part[0], digest):
            yield part
            part, size_bytes = [], 0
        part.append(digest)
        size_bytes += digest.size_bytes
        if size_bytes >= _PART_BYTES or len(part) >= PAGE_OBJECTS:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


def _page_objects(position: Position) -> int:
    is_summary = position.purpose is Purpose.CHECK and position.phase is WalkPhase.BLOBS
    return SUMMARY_OBJECTS if is_summary else PAGE_OBJECTS


def pages_of_check(blobs: int, entries: int) -> int:
    """Return how many pages a check of so many blobs and entries has."""
    return blobs // SUMMARY_OBJECTS + 1 + entries // PAGE_OBJECTS + 1


def pause_of_check(check_every_s: float, pages: int) -> float:
    """Return the rest between pages in seconds, so that a check takes half of its interval."""
    return check_every_s * _CHECK_SHARE / max(pages, 1)
