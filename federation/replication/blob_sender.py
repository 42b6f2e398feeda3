"""Blobs that a peer lacks, sent to it: small ones in batches, large ones by themselves.

Waits as long as it takes: a call that fails is made again once the peer is up to it. An object ends
only by being there, by being set aside, or with the task that sends it.
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
_ALIVE_BYTES = 2**20  # taken of a long upload, it shows that the peer works
_AGAIN_FIRST_S, _AGAIN_MAX_S = 1.0, 60.0  # for single blobs, while others are taken

Settle = Callable[[Sequence[Digest], SendOutcome], None]


class Sender:
    """Sends to one peer from here."""

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
        """memory: shared by all peers."""
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
        """Return what the peer lacks; asks until it answers."""
        return await self.answered_call.answer(lambda: self._api.find_missing(digests))

    async def find_absent(self, digests: Sequence[Digest]) -> set[Digest]:
        """See PeerApi; asks until the peer answers."""
        return await self.answered_call.answer(lambda: self._api.find_absent(digests))

    # Batches

    async def send_small(
        self, blobs: Sequence[Digest], history: ObjectHistory, settle: Settle
    ) -> None:
        """Bring each of these small blobs to its end.

        A batch is cut when there is a slot for one: what the peer has taken by then sets how much
        goes together. 20,000 blobs for a peer that had few before went in 36 batches; all of a
        slice cut at once, in 54.
        """
        left = blobs
        async with asyncio.TaskGroup() as group:
            while left:
                async with self._slots.one():
                    batch = next(self.batch_size.cut(left, self._api.batch_bytes))
                group.create_task(self.send_batch(batch, history, settle))
                left = left[len(batch) :]

    async def send_behind(
        self, blobs: Sequence[Digest], history: ObjectHistory, settle: Settle
    ) -> None:
        """Do the same for what may wait: all that goes this way has half of the slots at most."""
        left = blobs
        while left:
            async with self._behind.one():
                batch = next(self.batch_size.cut(left, self._api.batch_bytes))
                await self.send_batch(batch, history, settle)
            left = left[len(batch) :]

    async def send_batch(self, batch: list[Digest], history: ObjectHistory, settle: Settle) -> None:
        """Bring each blob of a batch to its end.

        Neither the slot nor the bytes are kept while the peer is left alone.
        """
        left, halve, delay_s = batch, False, 0.0
        while left:
            async with self._slots.one():
                parts = list(self._parts(left, halve=halve))
                tried = await self._try_batch(left, history, settle) if len(parts) == 1 else None
            if tried is None:
                async with asyncio.TaskGroup() as group:  # one that makes trouble holds up no other
                    for part in parts:
                        group.create_task(self.send_batch(part, history, settle))
                return
            forgot = await self._confirm(tried.taken, settle)
            left, halve = tried.again + forgot, tried.halve
            if left and self._gate.is_open and not halve:
                delay_s = min(_AGAIN_MAX_S, max(_AGAIN_FIRST_S, delay_s * 2))
                await self._clock.sleep(delay_s)
            left = await self._still_missing(left, settle)
            if left and tried.is_slow:
                await self.send_large(left[0], history, settle)
                return

    def _parts(self, left: list[Digest], *, halve: bool) -> Iterator[list[Digest]]:
        """Yield what goes together: a batch may have become too large for the link meanwhile."""
        middle = len(left) // 2
        for half in (left[:middle], left[middle:]) if halve and middle else (left,):
            yield from self.batch_size.cut(half, self._api.batch_bytes)

    async def _still_missing(self, left: list[Digest], settle: Settle) -> list[Digest]:
        """Settle what has arrived although it seemed not to have; return the others."""
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
        """Settle what is refused for good, and learn from the others."""
        size_bytes = sum(len(data) for _, data in blobs)
        tried = judge_batch([digest for digest, _ in blobs], results, self.faults)
        for digest, outcome in tried.ended:
            settle([digest], outcome)
        if tried.taken:
            turn.succeeded()
            self.batch_size.took(len(blobs), size_bytes, took_s, self._api.batch_bytes)
        if tried.error is not None:
            if tried.error.kind is FailureKind.TIMEOUT:
                self.batch_size.failed(len(blobs), size_bytes)
            if not tried.error.is_local_limit:
                turn.failed(tried.error)
        return tried

    async def _confirm(self, taken: list[Digest], settle: Settle) -> list[Digest]:
        """Settle what the peer has indeed; return what it forgot and is to be sent again."""
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
        """Count blobs that the peer took, or said it had, and does not have."""
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
        """Bring one large blob to its end."""
        delay_s, goes_on = 0.0, False
        while True:
            async with self._large:
                outcome = await self._try_large(digest, history, goes_on=goes_on)
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
        """Send it once; None: try again."""
        async with self._gate.turn(writes=True) as turn:
            try:
                opener = self._opener(digest, turn)
                await self._api.send(digest, opener, history, goes_on=goes_on)
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
    """Pass chunks on, and let others pass the gate once a good part of them was taken."""
    size_bytes = 0
    async for chunk in chunks:
        yield chunk
        size_bytes += len(chunk)
        if size_bytes - len(chunk) < _ALIVE_BYTES <= size_bytes:
            turn.succeeded()
