"""Dividing a total so that there is always something left for whoever comes next.

Nobody may hold more than is free at that moment (dynamic thresholds, as switches divide their
buffers): one alone gets half of the total, two a third each, and n of them leave one part of n + 1
for the others. So no number of greedy callers leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class ShareVerdict(Enum):
    """The answer to a holder that wants more."""

    GRANTED = "granted"
    OVER_SHARE = "over share"  # this one has its part
    FULL = "full"  # all together have everything


class FairShare:
    """An amount that is shared, and the part of each holder. Both limits may change at any time."""

    def __init__(
        self,
        total: Callable[[], int],
        each: Callable[[], int] | None = None,
        *,
        first_is_free: bool = False,
    ) -> None:
        """Take the bounds.

        Args:
            total: how much there is.
            each: the most of one holder; 0, as without: what is free.
            first_is_free: grant a holder of nothing whatever it asks for, beyond the total if need
                be: then there is at most one such amount for each holder.
        """
        self._total = total
        self._first_is_free = first_is_free
        self._each = each
        self._by_holder: dict[str, int] = {}
        self.used = 0

    def __repr__(self) -> str:
        return f"<FairShare {self.used} of {self._total()} used by {len(self._by_holder)}>"

    @property
    def total(self) -> int:
        """How much there is."""
        return self._total()

    def used_by(self, holder: str) -> int:
        """How much this one has."""
        return self._by_holder.get(holder, 0)

    def judge(self, holder: str, amount: int = 1) -> ShareVerdict:
        """Return whether the holder may have this much more; more than the total counts as all."""
        if not self.used:  # one is served whatever it needs
            return ShareVerdict.GRANTED
        held = self._by_holder.get(holder, 0)
        if self._first_is_free and not held:
            return ShareVerdict.GRANTED
        total = self._total()
        free = total - self.used
        # Otherwise a request above a bound that was lowered by a reload would wait for ever.
        amount = min(amount, total)
        if amount > free:
            return ShareVerdict.FULL
        each = self._each() if self._each is not None else 0
        # Who holds nothing yet is the newcomer that something was left for.
        if held and held + amount > (each or free):
            return ShareVerdict.OVER_SHARE
        return ShareVerdict.GRANTED

    def try_acquire(self, holder: str, amount: int = 1) -> ShareVerdict:
        """Take this much if the holder may; what was granted has to be released."""
        verdict = self.judge(holder, amount)
        if verdict is ShareVerdict.GRANTED:
            self.add(holder, amount)
        return verdict

    def add(self, holder: str, amount: int) -> None:
        """Count this much more (below 0: less), whether or not the holder may have it."""
        self.used += amount
        held = self._by_holder.get(holder, 0) + amount
        # Holders come and go with callers; those with nothing must not pile up.
        if held > 0:
            self._by_holder[holder] = held
        else:
            self._by_holder.pop(holder, None)

    def release(self, holder: str, amount: int = 1) -> None:
        """Return what was taken."""
        self.add(holder, -amount)

    def largest(self) -> str | None:
        """Return who has most; None: nobody has anything."""
        return max(self._by_holder, key=self._by_holder.__getitem__, default=None)
