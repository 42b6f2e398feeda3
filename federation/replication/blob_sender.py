"""Sending blobs that a peer lacks: small ones in batches, large ones as streams.

A failed call is repeated when the peer works again, without a time limit. A blob ends only by being
held by the peer, by being skipped or parked, or with the task that sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import structlog

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobDamaged, BlobNotFound, DigestMismatch, FederationError
from federation.core.replication_log import ReplicationLog
from federation.core.semaphore import FairSlots
from federation.core.store import Chunks, Readable
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication.batch_size import BatchSize
from federation.replication.counters import PeerCounters
from federation.replication.gate import AnsweredCall, Gate, Turn
from federation.replication.outcomes import (
    DAMAGED,
    FORGOTTEN,
    GONE,
    SENT,
    Fault,
    FaultTracker,
    ForgottenBlobs,
    SendOutcome,
    Tried,
    judge_batch,
    parked,
)
from federation.replication.peer_api import ObjectHistory, OpenAt, PeerApi
from federation.replication.send_memory import SendMemory

_log = structlog.get_logger(__name__)

LARGE_AT_ONCE = 3
_ALIVE_BYTES = 2**20  # of a long upload; once taken, the peer works
_AGAIN_FIRST_S, _AGAIN_MAX_S = 1.0, 60.0  # for single blobs, while others are taken

Settle = Callable[[Sequence[Digest], SendOutcome], None]


class Sender:
    """Sends blobs to one peer."""

    def __init__(
        self,
        name: str,
        store: Readable,
        change_log: ReplicationLog,
        api: PeerApi,
        gate: Gate,
        counters: PeerCounters,
        memory: SendMemory,
        clock: Clock,
    ) -> None:
        """memory: shared by all peers, so are its bounds."""
        self.memory = memory.of_calls(name)
        self.answered_call = AnsweredCall(gate, clock)
        self.faults = FaultTracker()
        self._forgotten = ForgottenBlobs()
        self.batch_size = BatchSize()
        self._name = name
        self._store = store
        self._change_log = change_log
        self._api = api
        self._gate = gate
        self._counters = counters
        self._clock = clock
        self._slots = FairSlots(lambda: self.batch_size.slots)
        self._behind = FairSlots(lambda: max(1, self.batch_size.slots // 2))
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Sender {self._slots!r}, {self.batch_size!r}>"

    async def ask(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return which of these the peer lacks; asks until it answers."""
        return await self.answered_call.answer(lambda: self._api.find_missing(digests))

    async def find_absent(self, digests: Sequence[Digest]) -> set[Digest]:
        """See PeerApi; asks until the peer answers."""
        return await self.answered_call.answer(lambda: self._api.find_absent(digests))

    # Batches

    async def send_small(
        self, blobs: Sequence[Digest], history: ObjectHistory, settle: Settle
    ) -> None:
        """Send small blobs until each has an outcome.

        A batch is cut when there is a slot for one: what the peer has taken by then sets how much
        goes together. 20,000 blobs for a peer that had few before went in 36 batches; all of a
        slice cut at once, in 54.
        """
        left = blobs
        async with asyncio.TaskGroup() as group:
            while left:
                async with self._slots.one():
                    batch = next(self.batch_size.cut(left, self._api.batch_bytes))
                # The slot was only waited for. send_batch takes one for each attempt, since it
                # waits for the gate in between.
                group.create_task(self.send_batch(batch, history, settle))
                left = left[len(batch) :]

    async def send_behind(
        self, blobs: Sequence[Digest], history: ObjectHistory, settle: Settle
    ) -> None:
        """Do the same for a walk, which has at most half of the slots."""
        left = blobs
        while left:
            # Held until the batch has ended, unlike a slot of live traffic: this is the walk's
            # bound.
            async with self._behind.one():
                batch = next(self.batch_size.cut(left, self._api.batch_bytes))
                await self.send_batch(batch, history, settle)
            left = left[len(batch) :]

    async def send_batch(self, batch: list[Digest], history: ObjectHistory, settle: Settle) -> None:
        """Send a batch until each blob has an outcome.

        No slot is held between attempts, and no memory while the gate is closed.
        """
        left, halve, delay_s = batch, False, 0.0
        while left:
            async with self._slots.one():
                parts = list(self._parts(left, halve=halve))
                tried = await self._try_batch(left, history, settle) if len(parts) == 1 else None
            if tried is None:
                # Each part by itself: a half that fails does not hold up the other.
                async with asyncio.TaskGroup() as group:
                    for part in parts:
                        group.create_task(self.send_batch(part, history, settle))
                return
            forgot = await self._confirm(tried.taken, settle)
            left, halve = tried.again + forgot, tried.halve
            # While the gate is closed, its own delay is pause enough.
            if left and self._gate.is_open and not halve:
                delay_s = min(_AGAIN_MAX_S, max(_AGAIN_FIRST_S, delay_s * 2))
                await self._clock.sleep(delay_s)
            # A call that ran into its time limit may have been taken all the same.
            left = await self._still_missing(left, settle)
            # It may never get across within one call: see decisions, "A small blob that does not
            # get across within a call goes as a stream".
            if left and tried.is_slow:
                await self.send_large(left[0], history, settle)
                return

    def _parts(self, left: list[Digest], *, halve: bool) -> Iterator[list[Digest]]:
        """Yield the batch again, cut anew: it may be too large for the link by now."""
        middle = len(left) // 2
        for half in (left[:middle], left[middle:]) if halve and middle else (left,):
            yield from self.batch_size.cut(half, self._api.batch_bytes)

    async def _still_missing(self, left: list[Digest], settle: Settle) -> list[Digest]:
        """Settle blobs that arrived although the call failed; return the others."""
        missing = await self.ask(left) if left else set()
        if there := [digest for digest in left if digest not in missing]:
            settle(there, SENT)
        return [digest for digest in left if digest in missing]

    async def _try_batch(
        self, batch: list[Digest], history: ObjectHistory, settle: Settle
    ) -> Tried:
        size_bytes = sum(digest.size_bytes for digest in batch)
        async with self._gate.turn(writes=True) as turn, self.memory.hold(size_bytes):
            async with self._gate.throttle.reading:
                blobs = await self._read(batch, settle)
            if not blobs:
                return Tried([], [])
            await self._gate.throttle.turn()
            began_s = self._clock.monotonic_s()
            try:
                results = await self._api.write_small(blobs, history)
            except RemoteFailed as error:
                results = [error] * len(blobs)
            # Before the turn: waiting for it says nothing about the peer.
            took_s = self._clock.monotonic_s() - began_s
            await self._gate.throttle.turn()
            tried = self._sort(blobs, results, took_s, settle, turn)
        if tried.error is not None:
            await self.answered_call.raise_if_permanent(tried.error)
        return tried

    async def _read(self, batch: list[Digest], settle: Settle) -> list[tuple[Digest, bytes]]:
        found = await self._store.read_small(batch)
        blobs: list[tuple[Digest, bytes]] = []
        for digest, data in zip(batch, found, strict=True):
            if data is None:
                settle([digest], await self._lost(digest))
            else:
                blobs.append((digest, data))
        return blobs

    async def _lost(self, digest: Digest) -> SendOutcome:
        return DAMAGED if await self._change_log.is_damaged(digest) else GONE

    def _sort(
        self,
        blobs: list[tuple[Digest, bytes]],
        results: Sequence[FederationError | None],
        took_s: float,
        settle: Settle,
        turn: Turn,
    ) -> Tried:
        """Settle refused blobs, and report the outcome of the call."""
        size_bytes = sum(len(data) for _, data in blobs)
        tried = judge_batch([digest for digest, _ in blobs], results, self.faults)
        for digest, outcome in tried.ended:
            settle([digest], outcome)
        if tried.taken:
            turn.succeeded()
            self.batch_size.took(len(blobs), size_bytes, took_s, self._api.batch_bytes)
        # Outside the gate and the memory, because it may pause.
        if tried.error is not None:
            if tried.error.kind is FailureKind.TIMEOUT:
                self.batch_size.failed(len(blobs), size_bytes)
            # A limit of this node says nothing about the peer, so it closes no gate.
            if not tried.error.is_local_limit:
                turn.failed(tried.error)
        return tried

    async def _confirm(self, taken: list[Digest], settle: Settle) -> list[Digest]:
        """Settle what the peer holds; return what it forgot and has to be sent again."""
        # Only what the peer calls held counts: one that evicts at once, or lies, also answers OK to
        # the write, and the cursor must not pass what it does not hold.
        missing = await self.ask(taken) if taken else set()
        if there := [digest for digest in taken if digest not in missing]:
            self._forgotten.kept(*there)
            self._counters.sent(len(there), sum(digest.size_bytes for digest in there))
            settle(there, SENT)
        forgot = [digest for digest in taken if digest in missing]
        if forgot:
            self.note_forgotten(forgot)
        again = [each for each in forgot if self._forgotten.forgot(each) is not Fault.OBJECT]
        if len(again) < len(forgot):
            given_up = set(forgot).difference(again)
            settle([digest for digest in forgot if digest in given_up], FORGOTTEN)
        return again

    def note_forgotten(self, digests: Sequence[Digest]) -> None:
        """Count blobs that the peer took, or claimed to hold, and lacks."""
        flagged = self._counters.forgets
        self._counters.forgotten += len(digests)
        if self._counters.forgets and not flagged:
            _log.warning(
                "peer_forgets",
                peer=self._name,
                blobs=self._counters.forgotten,
                digest=str(digests[0]),
            )

    # Large ones

    async def send_large(self, digest: Digest, history: ObjectHistory, settle: Settle) -> None:
        """Send one large blob until it has an outcome."""
        delay_s, goes_on = 0.0, False
        while True:
            async with self._large:
                outcome = await self._try_large(digest, history, goes_on=goes_on)
            # Only an upload that broke off may be continued; one that the peer took and forgot
            # begins anew.
            goes_on = outcome is None
            if outcome is SENT:
                forgot = await self._confirm([digest], settle)
                if not forgot:
                    return
            elif outcome is not None:
                settle([digest], outcome)
                return
            if self._gate.is_open:
                delay_s = min(_AGAIN_MAX_S, max(_AGAIN_FIRST_S, delay_s * 2))
                await self._clock.sleep(delay_s)
            if not await self._still_missing([digest], settle):
                return

    async def _try_large(
        self, digest: Digest, history: ObjectHistory, *, goes_on: bool
    ) -> SendOutcome | None:
        """Send a large blob once; None: try again."""
        async with self._gate.turn(writes=True) as turn:
            try:
                opener = self._opener(digest, turn)
                await self._api.send(digest, opener, history, goes_on=goes_on)
            # These two come from this node's store, through the opener; the gate is not told of
            # them.
            except BlobNotFound:
                return await self._lost(digest)
            except (BlobDamaged, DigestMismatch):
                return DAMAGED
            except RemoteFailed as failed:
                error = failed
            else:
                turn.succeeded()
                self.faults.taken(digest)
                return SENT
            if self.faults.failed(digest, error.kind) is Fault.OBJECT:
                return parked(error.reason)
            if not error.is_local_limit:
                turn.failed(error)
        await self.answered_call.raise_if_permanent(error)
        return None

    def _opener(self, digest: Digest, turn: Turn) -> OpenAt:
        @asynccontextmanager
        async def open_at(offset: int) -> AsyncIterator[Chunks]:
            async with self._store.open_read(digest, offset=offset) as chunks:
                yield _watched(chunks, turn)

        return open_at


async def _watched(chunks: Chunks, turn: Turn) -> Chunks:
    """Pass chunks on; report that the peer works once it has taken a megabyte."""
    size_bytes = 0
    async for chunk in chunks:
        yield chunk
        size_bytes += len(chunk)
        # Not at the first chunk: buffers on the way take that even for a peer that is gone.
        if size_bytes - len(chunk) < _ALIVE_BYTES <= size_bytes:
            turn.succeeded()
