"""A limit in bytes a second, as a pure machine: callers pass the time and wait themselves."""

from __future__ import annotations

from dataclasses import dataclass

_BURST_S = 0.25  # what may pass at once after a pause


@dataclass(slots=True)
class TokenBucket:
    """Lets rate_bytes_s pass on average. It may go into debt, which the next ones wait for."""

    rate_bytes_s: int  # 0: no limit
    now_s: float
    _tokens: float = 0.0

    def take(self, size_bytes: int, now_s: float) -> float:
        """Count bytes that have passed; return how many seconds to wait before more may."""
        if self.rate_bytes_s == 0:
            return 0.0
        gained = max(now_s - self.now_s, 0.0) * self.rate_bytes_s
        self._tokens = min(self._tokens + gained, self.rate_bytes_s * _BURST_S) - size_bytes
        self.now_s = now_s
        return max(-self._tokens / self.rate_bytes_s, 0.0)
