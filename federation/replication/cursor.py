"""How far a peer has come in the change log, when its acknowledgements come in any order.

A machine without I/O. Durable is only the cursor, the end of what is acknowledged without a gap;
what is acknowledged beyond it is known here alone, and offered again after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.replication.ranges import Ranges, runs


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
            self._claimed.remove(*gap)
            at = gap[1] + 1
