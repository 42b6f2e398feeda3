"""Chunk sizes of reads: large for who takes them, and little held for all others together."""

from __future__ import annotations

import pytest

from federation.core.clock import ManualClock
from federation.core.memory_budget import MemoryBudget
from federation.services.read_pacing import Budgets, ReadPacing
from federation.wire.chunk_sizer import LARGE_BYTES, SMALL_BYTES

MIB = 2**20
_BLOB_BYTES = 2**30


@pytest.fixture
def whole() -> MemoryBudget:
    return MemoryBudget(256 * MIB)


def paces(whole: MemoryBudget, number: int, size_bytes: int = _BLOB_BYTES) -> list[ReadPacing]:
    budgets = Budgets.within(whole)
    return [ReadPacing(ManualClock(), budgets, size_bytes) for _ in range(number)]


def take(pace: ReadPacing, up_to_bytes: int) -> int:
    """Take chunks at once while they fit; return the size of the one that would come next."""
    sent_bytes = 0
    while sent_bytes + (chunk_bytes := pace.next_bytes()) <= up_to_bytes:
        pace.begin()
        pace.sent(chunk_bytes)
        sent_bytes += chunk_bytes
    return chunk_bytes


def test_readers_that_have_shown_nothing_yet_share_little(whole: MemoryBudget) -> None:
    readers = paces(whole, 12)
    for pace in readers:
        take(pace, 20 * MIB)  # as much as windows may have swallowed
    assert LARGE_BYTES < whole.used_bytes <= 16 * MIB
    for pace in readers:
        pace.close()
    assert whole.used_bytes == 0


def test_who_took_more_than_windows_hold_gets_large_chunks_beside_them(whole: MemoryBudget) -> None:
    *others, fast = paces(whole, 12)
    for pace in others:
        take(pace, 20 * MIB)
    on_trial_bytes = whole.used_bytes
    assert take(fast, 20 * MIB) < LARGE_BYTES, "there was no room for it among those on trial"
    assert take(fast, 20 * MIB) == LARGE_BYTES
    assert whole.used_bytes - on_trial_bytes == 3 * LARGE_BYTES
    fast.close()
    assert whole.used_bytes == on_trial_bytes


def test_one_slow_chunk_and_it_holds_nothing(whole: MemoryBudget) -> None:
    clock = ManualClock()
    pace = ReadPacing(clock, Budgets.within(whole), _BLOB_BYTES)
    assert take(pace, 20 * MIB) == LARGE_BYTES
    pace.begin()
    clock.advance(40.0)
    pace.sent(LARGE_BYTES)
    assert pace.next_bytes() == SMALL_BYTES
    assert whole.used_bytes == 0


def test_readers_that_become_slow_share_little_again(whole: MemoryBudget) -> None:
    clock, budgets = ManualClock(), Budgets.within(whole)
    readers = [ReadPacing(clock, budgets, _BLOB_BYTES) for _ in range(30)]
    for pace in readers:
        take(pace, 64 * MIB)
    assert whole.used_bytes > 128 * MIB
    for pace in readers:
        pace.begin()
        clock.advance(1.0)
        pace.sent(MIB)
    chunks = [pace.next_bytes() for pace in readers]
    assert max(chunks) == MIB // 2
    assert min(chunks) == SMALL_BYTES
    assert whole.used_bytes <= 16 * MIB


def test_short_reads_get_what_room_there_is(whole: MemoryBudget) -> None:
    readers = paces(whole, 128, size_bytes=5 * MIB)
    assert {pace.next_bytes() for pace in readers} == {SMALL_BYTES}
    assert whole.used_bytes == 0, "none has shown that it takes anything"
    for pace in readers:
        pace.begin()
        pace.sent(SMALL_BYTES)
    chunks = [pace.next_bytes() for pace in readers]
    assert chunks.count(MIB) == 85
    assert chunks[85:88] == [2**18, 2**16, SMALL_BYTES]
    assert 255 * MIB < whole.used_bytes <= 256 * MIB
    for pace in readers:
        pace.close()
    assert whole.used_bytes == 0


def test_without_room_chunks_stay_small(whole: MemoryBudget) -> None:
    assert whole.try_acquire(whole.total_bytes)
    (pace,) = paces(whole, 1)
    assert take(pace, 64 * MIB) == SMALL_BYTES


def test_what_fits_one_chunk_is_one(whole: MemoryBudget) -> None:
    (pace,) = paces(whole, 1, size_bytes=LARGE_BYTES)
    assert pace.next_bytes() == LARGE_BYTES
