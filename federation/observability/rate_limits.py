"""Bounds on the log: how many lines clients can cause, how often lasting trouble is repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from federation.core.clock import Clock
from federation.core.token_bucket import TokenBucket


@dataclass(slots=True)
class LogLimit:
    """A bound on log lines that counts those it holds back."""

    clock: Clock
    per_second: float = 2.0
    burst: float = 50.0
    _lines: TokenBucket = field(init=False)
    _held_back: int = 0

    def __post_init__(self) -> None:
        now_s = self.clock.monotonic_s()
        self._lines = TokenBucket(self.per_second, self.burst, now_s, tokens=self.burst)

    def admit(self) -> int | None:
        """Return how many lines were held back since the last one; None: hold this one back."""
        if not self._lines.try_spend(1, self.clock.monotonic_s()):
            self._held_back += 1
            return None
        held_back, self._held_back = self._held_back, 0
        return held_back


_AGAIN_S = 60.0


class Complaints:
    """Logs lasting trouble when it begins, when it changes, and once a minute."""

    def __init__(self, log: Any, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._logged: dict[str, tuple[str, float]] = {}

    def warn(self, event: str, error: Exception | str) -> None:
        """Log the event with the error's reason, unless the same was logged within a minute."""
        reason, now_s = str(error), self._clock.monotonic_s()
        logged, at_s = self._logged.get(event, ("", 0.0))
        if reason != logged or now_s - at_s >= _AGAIN_S:
            self._logged[event] = (reason, now_s)
            self._log.warning(event, reason=reason)
