"""How far a peer has come in the change log, when its acknowledgements come in any order.

Decisions without I/O. Only the cursor is durable: the end of what is acknowledged without a gap.
What is acknowledged beyond it is known in memory alone, and offered again after a crash.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the ranges that ascending numbers, each there once, make up."""
    if not numbers:
        return []
    # A batch is mostly one range, which needs no look at each number.
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
        # Ranges that touch become one, so their number stays that of the gaps.
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


class LogProgress:
    """Rows are claimed, then each is done or released to be claimed again."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self._claimed = Ranges()  # beyond the cursor; what is done stays in it
        self._done = Ranges()  # likewise

    def __repr__(self) -> str:
        return f"<LogProgress {self.cursor} done {self._done!r} claimed {self._claimed!r}>"

    @property
    def unresolved(self) -> int:
        """How many rows are claimed and not done."""
        return self._claimed.size - self._done.size

    @property
    def done_beyond(self) -> int:
        """How many rows beyond the cursor are done."""
        return self._done.size

    def is_done(self, seq: int) -> bool:
        """Whether this row needs nothing more."""
        return seq <= self.cursor or seq in self._done

    def claim(self, head: int, width: int, *, newest: bool = False) -> tuple[int, int] | None:
        """Take up to width rows nobody has taken, the oldest or the newest; None: there are none.

        head: the newest row's seq.
        """
        if newest:
            gap = self._claimed.last_gap(self.cursor, head)
            part = gap and (max(gap[0], gap[1] - width + 1), gap[1])
        else:
            gap = self._claimed.first_gap(self.cursor, head)
            part = gap and (gap[0], min(gap[1], gap[0] + width - 1))
        if part:
            self._claimed.add(*part)
        return part

    def done(self, first: int, last: int) -> bool:
        """Note that these claimed rows are done; return whether the cursor moved."""
        # Nothing below the cursor is kept, or the ranges would grow with the log.
        self._done.add(max(first, self.cursor + 1), last)
        end = self._done.end_of(self.cursor + 1)
        if end <= self.cursor:
            return False
        self._done.remove(self.cursor + 1, end)
        self._claimed.remove(self.cursor + 1, end)
        self.cursor = end
        return True

    def all_done(self, seqs: Iterable[int]) -> bool:
        """Note the same of single rows, each named once: mostly neighbours, as in a batch."""
        moved = False
        for first, last in runs(sorted(seqs)):
            moved = self.done(first, last) or moved
        return moved

    def release(self, first: int, last: int) -> None:
        """Give back what of these rows is not done."""
        at = max(first, self.cursor + 1)
        while (gap := self._done.first_gap(at - 1, last)) is not None:
            # What is done in between stays claimed: it must not be sent again.
            self._claimed.remove(*gap)
            at = gap[1] + 1
