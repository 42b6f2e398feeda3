"""The cursor moves over what is done and never past what is not; nothing is claimed twice."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from federation.replication.cursor import LogProgress, Ranges, runs

SPANS = st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda s: (s[0], s[0] + s[1]))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove"]), SPANS), max_size=40)


@given(STEPS)
def test_ranges_are_a_set_of_numbers(steps: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, numbers = Ranges(), set[int]()
    for what, (first, last) in steps:
        span = range(first, last + 1)
        if what == "add":
            ranges.add(first, last)
            numbers |= set(span)
        else:
            ranges.remove(first, last)
            numbers -= set(span)
        assert {n for n in range(60) if n in ranges} == numbers
        assert ranges.size == len(numbers)
        pairs = ranges.pairs()
        assert all(b + 1 < c for (_, b), (c, _) in pairwise(pairs))


@given(STEPS, st.integers(0, 30), st.integers(0, 60))
def test_gaps_are_the_lowest_and_the_highest(
    steps: list[tuple[str, tuple[int, int]]], after: int, upto: int
) -> None:
    ranges = Ranges()
    for what, span in steps:
        (ranges.add if what == "add" else ranges.remove)(*span)
    free = [n for n in range(after + 1, upto + 1) if n not in ranges]
    first, last = ranges.first_gap(after, upto), ranges.last_gap(after, upto)
    if not free:
        assert first is None
        assert last is None
        return
    assert first is not None
    assert last is not None
    assert first[0] == free[0]
    assert last[1] == free[-1]
    for a, b in (first, last):
        assert set(range(a, b + 1)) <= set(free)
        assert a - 1 not in free
        assert b + 1 not in free


@given(st.integers(0, 50), st.integers(1, 120), st.booleans(), st.integers(0, 2**32))
def test_the_cursor_is_the_end_of_what_is_done_without_a_gap(
    cursor: int, rows: int, newest: bool, seed: int
) -> None:
    rng = random.Random(seed)
    progress, head = LogProgress(cursor), cursor
    done, claimed = set(range(cursor + 1)), set[int]()
    while head < cursor + rows or progress.cursor < head:
        head = min(cursor + rows, head + rng.randrange(20))
        part = progress.claim(head, rng.randrange(1, 15), newest=newest)
        if part is not None:
            taken = set(range(part[0], part[1] + 1))
            assert not taken & (claimed | done), "claimed twice"
            assert max(taken) <= head
            claimed |= taken
        waiting = sorted(claimed)
        for seq in rng.sample(waiting, rng.randrange(len(waiting) + 1)):
            if rng.random() < 0.2:
                progress.release(seq, seq)
            else:
                before = progress.cursor
                moved = progress.done(seq, seq)
                assert moved == (progress.cursor > before)
                done.add(seq)
            claimed.discard(seq)
        assert progress.cursor == next(n for n in range(head + 2) if n + 1 not in done)
        assert progress.unresolved == len(claimed)
        assert progress.done_beyond == len([n for n in done if n > progress.cursor])
        assert all(progress.is_done(n) == (n in done) for n in range(head + 1))


def test_r28_acknowledgements_count_by_object() -> None:
    progress = LogProgress(0)
    assert progress.claim(10, 10) == (1, 10)
    assert not progress.done(3, 3)
    assert progress.done(1, 2)
    assert progress.cursor == 3


def test_newest_first_takes_what_comes_in_before_what_lies_behind() -> None:
    progress = LogProgress(0)
    assert progress.claim(100, 10, newest=True) == (91, 100)
    assert progress.claim(120, 10, newest=True) == (111, 120)
    assert progress.claim(120, 50, newest=True) == (101, 110)
    assert progress.claim(120, 50, newest=True) == (41, 90)
    assert progress.claim(120, 50, newest=True) == (1, 40)
    assert progress.claim(120, 50, newest=True) is None


def test_rows_given_back_are_claimed_again_without_those_that_are_done() -> None:
    progress = LogProgress(0)
    progress.claim(10, 10)
    progress.done(4, 5)
    progress.release(1, 10)
    assert progress.claim(10, 10) == (1, 3)
    assert progress.claim(10, 10) == (6, 10)


@given(st.sets(st.integers(1, 30)))
def test_runs_are_the_ranges_of_a_set(numbers: set[int]) -> None:
    ranges = Ranges()
    for number in numbers:
        ranges.add(number, number)
    assert runs(sorted(numbers)) == ranges.pairs()


@given(st.lists(st.sets(st.integers(1, 30))))
def test_rows_that_are_done_together_move_the_cursor_as_one_by_one(parts: list[set[int]]) -> None:
    together, single = LogProgress(0), LogProgress(0)
    for progress in (together, single):
        assert progress.claim(30, 30) == (1, 30)
    for part in parts:
        before = single.cursor
        for seq in part:
            single.done(seq, seq)
        assert together.all_done(part) == (single.cursor > before)
        assert (together.cursor, together.unresolved) == (single.cursor, single.unresolved)
