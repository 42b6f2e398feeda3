"""A set of whole numbers that is kept as ranges: cheap while its members lie next to each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the ranges that ascending numbers, each there once, make up."""
    if not numbers:
        return []
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return [(numbers[0], numbers[-1])]
    starts = [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1]
    return [(numbers[a], numbers[b - 1]) for a, b in pairwise([0, *starts, len(numbers)])]


class Ranges:
    """All ranges are first..last, both included."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.size = 0  # how many numbers are in it

    def __repr__(self) -> str:
        shown = [f"{a}-{b}" for a, b in zip(self._firsts, self._lasts, strict=True)]
        return f"<Ranges {' '.join(shown[:5])}{' ...' if len(shown) > 5 else ''}>"

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __len__(self) -> int:
        return len(self._firsts)

    def pairs(self) -> list[tuple[int, int]]:
        """Return the ranges in order."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def add(self, first: int, last: int) -> None:
        """Put these in, whichever of them are in already."""
        if first > last:
            return
        low = bisect_left(self._lasts, first - 1)  # the first one that touches or lies beyond
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._replace(low, high, [(first, last)])

    def remove(self, first: int, last: int) -> None:
        """Take these out, whichever of them are in."""
        if first > last:
            return
        low = bisect_left(self._lasts, first)
        high = bisect_right(self._firsts, last)
        if low >= high:
            return
        left = (self._firsts[low], first - 1)
        right = (last + 1, self._lasts[high - 1])
        self._replace(low, high, [(a, b) for a, b in (left, right) if a <= b])

    def _replace(self, low: int, high: int, new: list[tuple[int, int]]) -> None:
        for a, b in zip(self._firsts[low:high], self._lasts[low:high], strict=True):
            self.size -= b - a + 1
        self._firsts[low:high] = [a for a, _ in new]
        self._lasts[low:high] = [b for _, b in new]
        self.size += sum(b - a + 1 for a, b in new)

    def end_of(self, number: int) -> int:
        """Return the last number of the range that number is in; number - 1 if it is in none."""
        at = bisect_right(self._firsts, number) - 1
        return self._lasts[at] if at >= 0 and number <= self._lasts[at] else number - 1

    def first_gap(self, after: int, upto: int) -> tuple[int, int] | None:
        """Return the lowest range within after+1..upto that is not in it."""
        first = self.end_of(after + 1) + 1
        if first > upto:
            return None
        at = bisect_right(self._firsts, first)
        return first, min(upto, self._firsts[at] - 1) if at < len(self._firsts) else upto

    def last_gap(self, after: int, upto: int) -> tuple[int, int] | None:
        """Return the highest such range."""
        at = bisect_right(self._firsts, upto) - 1
        last = upto
        if at >= 0 and upto <= self._lasts[at]:
            last = self._firsts[at] - 1
            at -= 1
        if last <= after:
            return None
        return max(after, self._lasts[at] if at >= 0 else after) + 1, last
