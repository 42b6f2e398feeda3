"""What a pull has received: stored in order and within bounds, and kept for its readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageFull
from federation.core.memory_budget import MemoryBudget
from federation.core.store import CHUNK_BYTES, Piece
from federation.upstream.pull_buffer import PullBuffer
from tests.support.fakes import MemoryIngest, MemoryStore
from tests.upstream.fakes import until

UNBOUNDED = 2**62


class SlowIngest(MemoryIngest):
    """Stores a piece each time it is let."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(MemoryStore(), digest)
        self.pieces: list[int] = []
        self.may = asyncio.Semaphore(0)
        self.full = False
        self.aborted = False

    async def abort(self) -> None:
        self.aborted = True
        await super().abort()

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        await self.may.acquire()
        if self.full:
            raise StorageFull("no room")
        self.pieces.append(len(data))
        await super().append(data, on_hashed)


def made(size_bytes: int, budget: MemoryBudget | None = None) -> tuple[PullBuffer, SlowIngest]:
    ingest = SlowIngest(digest_of(b"x")._replace(size_bytes=size_bytes))
    buffer = PullBuffer(ingest.digest, budget or MemoryBudget(UNBOUNDED))
    buffer.restart(ingest)
    return buffer, ingest


async def storing(budget: MemoryBudget) -> tuple[PullBuffer, SlowIngest]:
    """Return one that stores a piece of 100 bytes, while the next one waits."""
    buffer, ingest = made(1000, budget)
    await buffer.put(bytes(100))
    await asyncio.sleep(0)
    await buffer.put(bytes(100))
    return buffer, ingest


async def test_what_comes_while_a_piece_is_stored_becomes_the_next_piece() -> None:
    buffer, ingest = made(10_000)
    for _ in range(100):
        await buffer.put(bytes(100))
        await asyncio.sleep(0)
    ingest.may.release()
    ingest.may.release()
    await buffer.flush()
    assert ingest.pieces == [100, 9_900]
    assert buffer.received_bytes == 10_000


async def test_one_piece_may_wait_behind_the_one_that_is_stored_and_no_more() -> None:
    buffer, ingest = made(10 * CHUNK_BYTES)
    came = 0

    async def receive() -> None:
        nonlocal came
        for _ in range(10):
            await buffer.put(bytes(CHUNK_BYTES))
            came += 1

    receiving = asyncio.ensure_future(receive())
    for stored in range(9):
        await until(lambda stored=stored: came >= stored + 1)  # type: ignore[misc]
        for _ in range(10):
            await asyncio.sleep(0)
        assert came == stored + 1
        assert buffer.received_bytes == min(stored + 2, 10) * CHUNK_BYTES
        ingest.may.release()
    for _ in range(2):
        ingest.may.release()
    await receiving
    await buffer.flush()
    assert ingest.pieces == [CHUNK_BYTES] * 10


async def test_without_memory_a_piece_is_stored_before_the_next_is_taken() -> None:
    budget = MemoryBudget(0)
    buffer, ingest = made(300, budget)
    putting = asyncio.ensure_future(buffer.put(bytes(100)))
    await until(lambda: buffer._recent.end == 100)
    assert not putting.done()
    ingest.may.release()
    await putting
    assert ingest.received_bytes == 100


async def test_a_full_disk_fails_whoever_brings_the_next_bytes_and_whoever_flushes() -> None:
    budget = MemoryBudget(10_000)
    buffer, ingest = made(1000, budget)
    await buffer.put(bytes(100))
    ingest.full = True
    ingest.may.release()
    with pytest.raises(StorageFull):
        await buffer.flush()
    with pytest.raises(StorageFull):
        await buffer.put(bytes(100))
    await buffer.close()
    assert budget.used_bytes == 0


async def test_closing_ends_what_runs_and_gives_the_memory_back() -> None:
    budget = MemoryBudget(10_000)
    buffer, ingest = await storing(budget)
    assert budget.used_bytes == 200
    await buffer.close()
    assert budget.used_bytes == 0
    assert ingest.pieces == []


async def test_whoever_closes_may_be_stopped_and_what_came_is_let_go_all_the_same() -> None:
    budget = MemoryBudget(10_000)
    buffer, ingest = await storing(budget)
    closing = asyncio.ensure_future(buffer.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until(lambda: budget.used_bytes == 0)
    assert ingest.aborted
