"""The change log followed for one lane to a peer: slices in flight, acknowledged by object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from federation.core.digest import Digest
from federation.core.replication_log import EntryHead, Lane, LogRow, Parked, PeerState
from federation.core.store import SMALL_BLOB_BYTES
from federation.core.tasks import first_of
from federation.replication.cursor import LogProgress
from federation.replication.entry_sender import EntryToSend
from federation.replication.outcomes import GONE, SUPERSEDED, Fate, SendOutcome
from federation.replication.peer_api import ObjectHistory, Via
from federation.replication.rules import When
from federation.replication.selection import (
    BY_RULE,
    CAME_FROM_IT,
    PULLED,
    Choice,
    Chosen,
    End,
    gaps,
)
from federation.replication.session import PeerSession
from federation.replication.shipping import OnOutcome

_log = structlog.get_logger(__name__)

SLICE_ROWS = 1000
UNRESOLVED_MAX = 10_000  # rows; so many may pass large or failing objects
# Single pushes are gathered: a slice costs as much as several of them. While many come one by one,
# for longer, but not while somebody may wait for each to be acknowledged before the next.
_LINGER_S = 0.04
_LINGER_MORE_S = 0.11
_MANY_ROWS, _ENOUGH_ROWS = 4, 200  # within the first of these
_WAIT_S = 60.0
_BLOBS_FIRST_S = 5.0

_HERE = (CAME_FROM_IT, PULLED, BY_RULE)


class LogTrimmed(Exception):
    """The change log was trimmed beyond what this lane has read."""


class Follower:
    """One run along the change log. A new one continues from the saved cursor."""

    def __init__(self, session: PeerSession, lane: Lane) -> None:
        self._session = session
        self._lane = lane
        self._when = When.WINDOW if lane is Lane.WINDOW else When.ALWAYS
        self.progress = LogProgress(session.record(lane).cursor)
        self._moved = asyncio.Event()
        self._reports_soon = False
        self._to_park: list[tuple[LogRow, Parked]] = []
        self._parking = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Follower of {self._session.name} {self._lane} {self.progress!r}>"

    @property
    def is_idle(self) -> bool:
        """Whether every row of the change log is acknowledged."""
        return self.progress.cursor >= self._session.change_log.head()

    async def run(self) -> None:
        """Follow the change log.

        Raises LogTrimmed, and the errors of the store and the change log.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._park())
                await self._follow(group.create_task)
        except ExceptionGroup as errors:
            # One of all failures at once: the caller decides by the type.
            raise first_of(errors) from None

    async def _follow(self, start: Callable[..., object]) -> None:
        change_log, newest = self._session.change_log, self._session.peer.order == "newest"
        while True:
            head = change_log.head()
            part = self.progress.claim(head, SLICE_ROWS, newest=newest)
            if part is None:
                if await change_log.wait_beyond(head, _WAIT_S):
                    await self._gather(head)
                continue
            start(self._bring(await self._read(*part), *part))
            while self.progress.unresolved > UNRESOLVED_MAX:
                self._moved.clear()
                await self._moved.wait()

    async def _gather(self, head: int) -> None:
        clock, change_log = self._session.clock, self._session.change_log
        await clock.sleep(_LINGER_S)
        if _MANY_ROWS <= change_log.head() - head < _ENOUGH_ROWS:
            await clock.sleep(_LINGER_MORE_S)

    async def _read(self, first: int, last: int) -> list[LogRow]:
        found = await self._session.change_log.read(first - 1, last - first + 1)
        if not found.is_whole:
            raise LogTrimmed
        # No log has to number its rows densely, so as many may reach beyond what was claimed.
        return [row for row in found.rows if row.seq <= last]

    async def skip_ahead(self) -> None:
        """Move the cursor past rows that are not for this lane, up to the first that is.

        What lies beyond the cursor is kept from eviction; a lane that waits must not keep others'.
        """
        while (
            part := self.progress.claim(self._session.change_log.head(), SLICE_ROWS)
        ) is not None:
            rows = await self._read(*part)
            wanted = min((await self._choose(rows, _nothing)).seqs(), default=None)
            upto = part[1] if wanted is None else wanted - 1
            if self.progress.done(part[0], upto):
                self._report_cursor()
            if wanted is not None:
                self.progress.release(*part)
                return

    # One slice

    async def _bring(self, rows: Sequence[LogRow], first: int, last: int) -> None:
        # Numbers without a row count as delivered, or the cursor would stop before them for ever.
        for gap in gaps(rows, first, last):
            self._done(*gap)
        await self._session.gate.throttle.turn()
        part = await self._choose(rows, self._end)
        async with asyncio.TaskGroup() as group:
            small = group.create_task(self._ship(part.blobs, large=False))
            # Large ones apart: they may take hours, and entries wait only for the small ones.
            group.create_task(self._ship(part.blobs, large=True))
            if part.entries:
                # Batches are cheaper than the single questions of walks. But a blob that fails
                # must not hold up entries that do not need it.
                await asyncio.wait({small}, timeout=_BLOBS_FIRST_S)
                group.create_task(self._push(part.entries))

    async def _choose(self, rows: Sequence[LogRow], end: End) -> Chosen:
        """Return the rows for this lane; end is called for the others."""
        session = self._session
        choice = Choice(session.rules, session.node_id, self._when)
        chosen = choice.rows(rows, end)
        if not chosen.entries:
            return chosen
        keys = [row.key for row in chosen.entries if row.key is not None]
        found = await session.change_log.heads_at(keys)
        return chosen._replace(entries=choice.entries(chosen.entries, found, end))

    async def _ship(self, blobs: dict[Via, dict[Digest, list[LogRow]]], *, large: bool) -> None:
        async with asyncio.TaskGroup() as group:
            for via, rows_of in blobs.items():
                chosen = {
                    digest: rows
                    for digest, rows in rows_of.items()
                    if (digest.size_bytes > SMALL_BLOB_BYTES) is large
                }

                def on_outcome(
                    digests: Sequence[Digest],
                    outcome: SendOutcome,
                    rows_of: dict[Digest, list[LogRow]] = chosen,
                ) -> None:
                    self._end_all([row for one in digests for row in rows_of[one]], outcome)

                if chosen:
                    group.create_task(self._ship_to_end(chosen, via, on_outcome))

    async def _ship_to_end(
        self, rows_of: dict[Digest, list[LogRow]], via: Via, on_outcome: OnOutcome
    ) -> None:
        await self._session.gate.throttle.turn()
        await self._session.shipper.ship(rows_of, ObjectHistory(via), on_outcome)

    async def _push(self, rows: Sequence[LogRow]) -> None:
        keys = [row.key for row in rows if row.key is not None]
        found = await self._session.change_log.heads_at(keys)
        async with asyncio.TaskGroup() as group:
            for row, now in zip(rows, found, strict=True):
                if now is None:
                    self._end(row, GONE)
                elif now.seq > row.seq:
                    self._end(row, SUPERSEDED)
                else:
                    group.create_task(self._push_one(row, now))

    async def _push_one(self, row: LogRow, now: EntryHead) -> None:
        decision = self._session.rules.of_entry(now.key, now.label)
        wanted = EntryToSend(now, row.via, decision.bounds)
        self._end(row, await self._session.entries.send(wanted), now.label)

    # The ends

    def _end(self, row: LogRow, outcome: SendOutcome, label: str = "") -> None:
        self._end_all([row], outcome, label)

    def _end_all(self, rows: Sequence[LogRow], outcome: SendOutcome, label: str = "") -> None:
        """Settle rows. label: the name of a single row for people; default: its digest or key."""
        # A row that this peer was never meant to get, or that the other lane sends, is not one of
        # its objects; counting it would also make the rate, and so the estimate in `status`, too
        # good.
        if outcome not in _HERE:
            self._session.count(outcome, sum(row.size_bytes for row in rows), len(rows))
        if outcome.fate is not Fate.PARKED:
            self._note(moved=self.progress.all_done(row.seq for row in rows))
            return
        for row in rows:
            thing = row.digest if row.digest is not None else row.key
            assert thing is not None
            parked = self._session.parked(row.seq, thing, label or str(thing), outcome.reason)
            self._to_park.append((row, parked))
        self._parking.set()

    async def _park(self) -> None:
        """Store parked objects before the cursor may pass them."""
        while True:
            await self._parking.wait()
            self._parking.clear()
            taken, self._to_park = self._to_park, []
            await self._session.change_log.park([parked for _, parked in taken])
            for row, parked in taken:
                _log.warning(
                    "object_parked", peer=parked.peer, object=parked.label, reason=parked.reason
                )
                self._done(row.seq, row.seq)

    def _done(self, first: int, last: int) -> None:
        self._note(moved=self.progress.done(first, last))

    def _note(self, *, moved: bool) -> None:
        if moved and not self._reports_soon:
            # Skipped rows end one by one; reporting each would take 0.1 s for a slice.
            self._reports_soon = True
            asyncio.get_running_loop().call_soon(self._report_cursor)
        self._moved.set()

    def _report_cursor(self) -> None:
        self._reports_soon = False
        session, cursor = self._session, self.progress.cursor
        session.change(self._lane, cursor=cursor)
        if session.record(self._lane).state is PeerState.FOLLOWING:  # else it may lack older rows
            session.change_log.note_acknowledged(session.name, self._lane, cursor)


def _nothing(_row: LogRow, _outcome: SendOutcome) -> None:
    return None
