"""What sends from one node to one peer, in one life: the order of calls and waits, and no more.

What is sent when, what becomes of it, how much at once, when it is tried again and how far the
cursor may go is all decided by the machines of federation.replication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import cast

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.index import Entry
from federation.core.store import SMALL_BLOB_BYTES
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication.backoff import Backoff, State
from federation.replication.batch_size import BatchSize
from federation.replication.entry_sender import stamp_to_send
from federation.replication.existence_cache import ConfirmedBlobs
from federation.replication.outcomes import (
    PRESENT,
    SENT,
    TOO_FAR,
    FaultTracker,
    SendOutcome,
    Tried,
    judge_batch,
)
from federation.replication.rules import may_go_on
from tests.replication.schedule_judge import Road
from tests.replication.schedule_nodes import Headers, Way
from tests.replication.schedule_world import Life, Process, Signal, World

AGAIN_S = 1.0  # while others are taken

OnOutcome = Callable[[Digest, SendOutcome], None]


class Calls:
    """Every call to one peer: it waits while the peer is left alone."""

    def __init__(self, world: World, road: Road) -> None:
        self.world = world
        self.road = road
        self.life: Life = road.here.life
        self.faults = FaultTracker()
        self._backoff = Backoff(0.1, world.rng)
        self._changed = Signal()
        self._is_timed = False
        self._writes_wait = 0

    @property
    def is_open(self) -> bool:
        """Whether nothing has to wait."""
        return self._backoff.state is State.OPEN

    def headers(self, via: Way, entry: Entry | None = None) -> Headers:
        """Return what goes with a call about an object that came this way."""
        here = self.road.here.name
        stamp = None if entry is None else stamp_to_send(entry, here)
        return hops.headers(hops.of_replication(via, stamp).after(here))

    def turn(self, *, writes: bool) -> Process:
        """Wait until a call may go out; return the generation that it is of."""
        backoff, world = self._backoff, self.world
        self._writes_wait += writes
        while not backoff.may_pass(world.now_s):
            if (delay_s := backoff.wait_s(world.now_s)) and not self._is_timed:
                self._is_timed = True
                world.after(delay_s, self._time_out)
            yield self._changed
        self._writes_wait -= writes
        return backoff.generation

    def succeeded(self, *, wrote: bool) -> None:
        """Note that the peer answers as it should."""
        before = self._backoff.state
        self._backoff.succeeded(wrote=wrote, writes_wait=self._writes_wait > 0)
        if self._backoff.state is not before:
            self._tell()

    def failed(self, error: RemoteFailed, generation: int, *, wrote: bool) -> None:
        """Leave the peer alone for a while."""
        self._backoff.failed(error, self.world.now_s, generation, wrote=wrote)
        self._tell()

    def gave_up(self) -> None:
        """Let another call try."""
        self._backoff.gave_up()
        self._tell()

    def _time_out(self) -> None:
        self._is_timed = False
        self._tell()

    def _tell(self) -> None:
        self.world.fire(self._changed)
        self._changed = Signal()

    def ask(self, digests: Sequence[Digest]) -> Process:
        """Return what the peer lacks; ask until it answers."""
        while True:
            generation = yield from self.turn(writes=False)
            work = partial(self.road.there.lacking, digests)
            missing, error = yield from self.road.wire.call(work)
            if error is None:
                self.succeeded(wrote=False)
                return missing
            self.failed(error, generation, wrote=False)


class Blobs(Calls):
    """Blobs that a peer lacks, each sent once at a time, whoever needs it there."""

    def __init__(self, world: World, road: Road) -> None:
        super().__init__(world, road)
        self.batch_size = BatchSize()
        self.confirmed = ConfirmedBlobs(cast(Clock, world), lambda: road.there.name)
        self._batch_bytes = road.there.batch_bytes
        self._small_max = min(self._batch_bytes // 2, SMALL_BLOB_BYTES)
        self._moving: dict[Digest, Signal] = {}
        self._batches = 0
        self._batch_ended = Signal()

    def ship(self, digests: Iterable[Digest], via: Way, way: Way, on_outcome: OnOutcome) -> Process:
        """See to it that the peer holds these; return the outcome of each."""
        outcomes: dict[Digest, SendOutcome] = {}

        def end(digest: Digest, outcome: SendOutcome) -> None:
            outcomes[digest] = outcome
            on_outcome(digest, outcome)

        mine, others = [], {}
        for digest in digests:
            if digest in self.confirmed:
                end(digest, PRESENT)
            elif digest in self._moving:
                others[digest] = self._moving[digest]
            else:
                mine.append(digest)
                self._moving[digest] = Signal()
        if mine:
            yield from self._move(mine, via, way, end)
        for digest, signal in others.items():
            end(digest, (yield signal))
        return outcomes

    def _move(self, mine: Sequence[Digest], via: Way, way: Way, end: OnOutcome) -> Process:
        def settle(digest: Digest, outcome: SendOutcome) -> None:
            if outcome.is_there:
                self.confirmed.add(digest)
            self.world.fire(self._moving.pop(digest), outcome)
            end(digest, outcome)

        missing = yield from self.ask(mine)
        lacking = []
        for digest in mine:
            if digest not in missing:
                settle(digest, PRESENT)
            elif not may_go_on(via):
                settle(digest, TOO_FAR)
            else:
                lacking.append(digest)
        small = [digest for digest in lacking if digest.size_bytes <= self._small_max]
        sending = [
            self._send([digest], via, way, settle)
            for digest in lacking
            if digest.size_bytes > self._small_max
        ]
        if small:
            sending.append(self._send_small(small, via, way, settle))
        if len(sending) == 1:
            yield from sending[0]
        elif sending:
            yield self.world.together(self.life, sending)

    def _send_small(self, left: list[Digest], via: Way, way: Way, settle: OnOutcome) -> Process:
        """Cut a batch when there is a slot for one."""
        while self._batches >= self.batch_size.slots:
            yield self._batch_ended
        batch = next(iter(self._cut(left)))
        sending = [self._send(batch, via, way, settle)]
        if rest := left[len(batch) :]:
            sending.append(self._send_small(rest, via, way, settle))
        yield self.world.together(self.life, sending)

    def _cut(self, digests: Sequence[Digest]) -> Iterable[list[Digest]]:
        for batch in self.batch_size.cut(digests, self._batch_bytes):
            self.road.check_batch(batch, self.batch_size.bytes_max, self.batch_size.items_max)
            yield batch

    def _send(self, batch: list[Digest], via: Way, way: Way, settle: OnOutcome) -> Process:
        """Bring each blob of a batch to its end."""
        left, halve, is_large = batch, False, batch[0].size_bytes > self._small_max
        while left:
            while not is_large and self._batches >= self.batch_size.slots:
                yield self._batch_ended
            middle = len(left) // 2 if halve else 0
            halves = (left[:middle], left[middle:]) if middle else (left,)
            parts = [left] if is_large else [part for half in halves for part in self._cut(half)]
            if len(parts) > 1:
                again = [self._send(part, via, way, settle) for part in parts]
                yield self.world.together(self.life, again)
                return
            self._batches += not is_large
            self.road.check_slots(self._batches)
            tried = yield from self._try(left, via, way, is_large=is_large)
            self._batches -= not is_large
            if self._batch_ended.waiting:
                self.world.fire(self._batch_ended)
                self._batch_ended = Signal()
            for digest, outcome in tried.ended:
                settle(digest, outcome)
            left, halve = tried.taken + tried.again, tried.halve
            if tried.again and self.is_open and not halve:
                yield AGAIN_S
            missing = (yield from self.ask(left)) if left else set()
            for digest in left:
                if digest not in missing:
                    settle(digest, SENT)
            left = [digest for digest in left if digest in missing]
            is_large = is_large or tried.is_slow

    def _try(self, batch: list[Digest], via: Way, way: Way, *, is_large: bool) -> Process:
        generation = yield from self.turn(writes=True)
        size_bytes, began_s = sum(digest.size_bytes for digest in batch), self.world.now_s
        work = partial(self.road.cross, batch, self.headers(via), way)
        call = self.road.wire.call(work, size_bytes, len(batch), is_stream=is_large)
        results, failed = yield from call
        tried: Tried = judge_batch(batch, results or [failed] * len(batch), self.faults)
        if failed is None:
            self.road.check_refused(batch, results, tried.ended)
        if tried.taken:
            self.succeeded(wrote=True)
            if not is_large:
                took_s = self.world.now_s - began_s
                self.batch_size.took(len(batch), size_bytes, took_s, self._batch_bytes)
        elif tried.error is None:
            self.gave_up()
        else:
            if tried.error.kind is FailureKind.TIMEOUT and not is_large:
                self.batch_size.failed(len(batch), size_bytes)
            self.failed(tried.error, generation, wrote=True)
        return tried
