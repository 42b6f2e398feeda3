from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.wire.chunk_sizer import LARGE_BYTES, SMALL_BYTES, ChunkSizer


def test_a_reader_that_keeps_up_gets_large_chunks() -> None:
    sizer = ChunkSizer()
    assert sizer.chunk_bytes == SMALL_BYTES
    for _ in range(5):
        sizer.wrote(sizer.chunk_bytes, 0.001)
    assert sizer.chunk_bytes == LARGE_BYTES


def test_a_slow_reader_falls_to_small_chunks_at_once() -> None:
    sizer = ChunkSizer(LARGE_BYTES)
    sizer.wrote(LARGE_BYTES, 2.0)
    assert sizer.chunk_bytes == SMALL_BYTES


def test_a_middling_reader_keeps_what_it_has() -> None:
    sizer = ChunkSizer(4 * SMALL_BYTES)
    sizer.wrote(1_000_000, 0.1)
    assert sizer.chunk_bytes == 4 * SMALL_BYTES


@given(st.lists(st.tuples(st.integers(1, LARGE_BYTES), st.floats(0, 100))))
def test_the_size_stays_within_its_bounds(writes: list[tuple[int, float]]) -> None:
    sizer = ChunkSizer()
    for size, seconds in writes:
        sizer.wrote(size, seconds)
        assert SMALL_BYTES <= sizer.chunk_bytes <= LARGE_BYTES
