from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.wire.chunk_sizer import LARGE_BYTES, SHORT_BYTES, SMALL_BYTES, ChunkSizer


def test_a_reader_that_keeps_up_gets_large_chunks() -> None:
    sizer = ChunkSizer()
    taken = writes = 0
    while sizer.chunk_bytes < LARGE_BYTES:
        assert sizer.chunk_bytes == SMALL_BYTES or sizer.chunk_bytes * 8 <= taken
        taken += sizer.chunk_bytes
        writes += 1
        sizer.wrote(sizer.chunk_bytes, 0.0001)
    assert taken == 8 * LARGE_BYTES
    assert writes < 70


def test_a_slow_reader_falls_to_small_chunks_at_once_and_has_to_earn_large_ones() -> None:
    sizer = ChunkSizer(LARGE_BYTES, 100 * LARGE_BYTES)
    sizer.wrote(LARGE_BYTES, 32.0)
    assert (sizer.chunk_bytes, sizer.is_slow) == (SMALL_BYTES, True)
    sizer.wrote(SMALL_BYTES, 0.0001)
    assert (sizer.chunk_bytes, sizer.is_slow) == (SMALL_BYTES, False)


def test_chunks_of_a_slow_reader_are_what_it_takes_in_half_a_second() -> None:
    sizer = ChunkSizer(LARGE_BYTES)
    sizer.wrote(LARGE_BYTES, 2.0)
    assert sizer.chunk_bytes == 2**19
    sizer.wrote(2**19, 0.5)
    assert sizer.chunk_bytes == 2**19


@given(st.lists(st.tuples(st.integers(0, LARGE_BYTES), st.floats(0, 100))))
def test_the_size_stays_within_its_bounds(writes: list[tuple[int, float]]) -> None:
    sizer = ChunkSizer()
    for size, seconds in writes:
        sizer.wrote(size, seconds)
        assert SMALL_BYTES <= sizer.chunk_bytes <= LARGE_BYTES


def test_what_fits_one_large_chunk_is_not_cut() -> None:
    assert ChunkSizer.for_read(LARGE_BYTES).chunk_bytes == LARGE_BYTES
    assert ChunkSizer.for_read(LARGE_BYTES + 1).chunk_bytes == SMALL_BYTES


def test_the_second_chunk_of_a_short_read_is_as_large_as_its_speed_allows() -> None:
    found = []
    for size, seconds in ((SHORT_BYTES, 0.001), (SHORT_BYTES, 0.05), (SHORT_BYTES + 1, 0.001)):
        sizer = ChunkSizer.for_read(size)
        sizer.wrote(SMALL_BYTES, seconds)
        found.append(sizer.chunk_bytes)
    assert found == [LARGE_BYTES // 2, 2**18, SMALL_BYTES]
