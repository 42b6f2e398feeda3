"""What a pull keeps in memory for its readers."""

from __future__ import annotations

from federation.core.memory_budget import MemoryBudget
from federation.upstream.recent_bytes import KEPT_BYTES, RecentBytes


def test_a_reader_at_a_piece_is_given_that_very_piece() -> None:
    recent = RecentBytes(MemoryBudget(2**62))
    first, second = b"a" * 1000, b"b" * 500
    recent.add(first)
    recent.add(second)
    assert recent.read(0, 1000) is first
    assert recent.read(1000, 10_000) is second
    assert recent.end == 1500


def test_reads_across_pieces_and_inside_them_give_the_right_bytes() -> None:
    recent = RecentBytes(MemoryBudget(2**62))
    whole = bytes(range(256)) * 4
    for at in range(0, len(whole), 100):
        recent.add(whole[at : at + 100])
    for offset in range(0, len(whole), 37):
        for size in (1, 63, 100, 250, len(whole)):
            assert recent.read(offset, size) == whole[offset : offset + size]


def test_what_several_ask_for_is_joined_once() -> None:
    recent = RecentBytes(MemoryBudget(2**62))
    recent.add(b"a" * 10)
    recent.add(b"b" * 10)
    assert recent.read(5, 10, shared=True) is recent.read(5, 10, shared=True)
    assert recent.read(6, 10, shared=True) == b"aaaabbbbbb"


def test_what_is_written_is_forgotten_beyond_a_bound_and_what_is_not_is_kept() -> None:
    recent, piece = RecentBytes(MemoryBudget(2**62)), bytes(1024 * 1024)
    for number in range(1, 11):
        recent.add(piece)
        recent.wrote(number * len(piece))
    assert recent.read(recent.end - KEPT_BYTES, 1) is not None
    assert recent.read(recent.end - KEPT_BYTES - 1, 1) is None
    for _ in range(10):
        recent.add(piece)
    assert recent.read(recent.end - 10 * len(piece), 1) is not None


def test_nothing_written_is_kept_where_the_budget_is_used_up() -> None:
    budget = MemoryBudget(1000)
    recent = RecentBytes(budget)
    recent.add(b"a" * 2000)
    recent.wrote(2000)
    assert recent.read(0, 1) is None
    recent.add(b"b" * 900)
    recent.wrote(2900)
    assert recent.read(2000, 1) == b"b"
    assert budget.used_bytes == 900
    recent.close()
    assert budget.used_bytes == 0
    assert recent.read(2000, 1) is None
