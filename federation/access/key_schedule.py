"""When keys are fetched from a URL, and until when they are used. No clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

AGAIN_S = 10.0  # between two fetches, whatever asks for them: strangers can, by a made-up key id
_LONGEST_PAUSE_S = 60.0  # between two that fail


@dataclass(slots=True)
class KeySchedule:
    """The fetches of one URL. All times are of one monotonic clock, in seconds."""

    refresh_s: float
    max_age_s: float
    given_at_s: float | None = None  # the last fetch that succeeded
    tried_at_s: float | None = None  # the last fetch
    failures: int = 0  # in a row

    def due_in_s(self, now_s: float) -> float:
        """Return after how long the next fetch is due; 0 or less: now."""
        if self.tried_at_s is None:
            return 0.0
        pause_s = self.refresh_s
        # Sooner than usual, but never later: refresh may be shorter than the pause.
        if self.failures:
            pause_s = min(AGAIN_S * 2.0 ** min(self.failures - 1, 10), _LONGEST_PAUSE_S, pause_s)
        return self.tried_at_s + pause_s - now_s

    def may_ask(self, now_s: float) -> bool:
        """Whether an unknown key is reason enough for a fetch now."""
        return self.tried_at_s is None or now_s - self.tried_at_s >= AGAIN_S

    def succeeded(self, now_s: float) -> None:
        """Record a fetch that gave keys."""
        self.given_at_s = self.tried_at_s = now_s
        self.failures = 0

    def failed(self, now_s: float) -> None:
        """Record a fetch that gave none."""
        self.tried_at_s = now_s
        self.failures += 1

    def left_s(self, now_s: float) -> float:
        """Return how long the keys may be used from now on; 0 or less: not any more."""
        return 0.0 if self.given_at_s is None else self.given_at_s + self.max_age_s - now_s
