"""A bound on how many log lines clients can cause."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.core.clock import Clock


@dataclass(slots=True)
class LogLimit:
    """A token bucket that counts what it holds back."""

    clock: Clock
    per_second: float = 2.0
    burst: float = 50.0
    _tokens: float = field(init=False)
    _at_s: float = field(init=False)
    _held_back: int = 0

    def __post_init__(self) -> None:
        self._tokens = self.burst
        self._at_s = self.clock.monotonic_s()

    def take(self) -> int | None:
        """Return how many lines were held back since the last one; None: hold this one back."""
        now_s = self.clock.monotonic_s()
        self._tokens = min(self.burst, self._tokens + (now_s - self._at_s) * self.per_second)
        self._at_s = now_s
        if self._tokens < 1:
            self._held_back += 1
            return None
        self._tokens -= 1
        held_back, self._held_back = self._held_back, 0
        return held_back
