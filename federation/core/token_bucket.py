"""A token bucket, as a pure machine: callers pass the time, and wait themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Lets `rate` tokens a second pass on average, and after a pause up to `burst` at once.

    Both may be changed at any time. It may go into debt, which is paid off at the same rate.
    """

    rate: float  # 0: no limit
    burst: float
    now_s: float
    tokens: float = 0.0  # below 0: a debt

    def try_spend(self, amount: float, now_s: float) -> bool:
        """Spend this amount and return True, if the bucket has it."""
        self._refill(now_s)
        if self.rate and self.tokens < amount:
            return False
        self.tokens -= amount
        return True

    def spend(self, amount: float, now_s: float) -> float:
        """Spend this amount, in debt if need be; return the seconds until the debt is paid off."""
        if not self.rate:
            return 0.0
        self._refill(now_s)
        self.tokens -= amount
        return max(0.0, -self.tokens / self.rate)

    def debt_s(self, now_s: float) -> float:
        """Return how many seconds it takes until there is no debt."""
        return self.spend(0, now_s)

    def _refill(self, now_s: float) -> None:
        # max: the times of several callers may come out of order by a moment.
        self.tokens = min(self.burst, self.tokens + max(0.0, now_s - self.now_s) * self.rate)
        self.now_s = now_s
