"""When stamps that are too far ahead are to be replaced: not before the clock had time to be set.

Pure logic; the time is passed in.
"""

from __future__ import annotations

STEADY_S = 60.0  # time synchronization corrects a clock that is wrong at the start within this time
EARLIEST_S = 1_767_225_600.0  # 2026: a machine with an earlier date has an empty clock battery


class DatesAhead:
    """Since when the newest stamp has been further ahead of the wall clock than drift_s."""

    def __init__(self, drift_s: float) -> None:
        self._drift_s = drift_s
        self._since_s: float | None = None  # monotonic time when stamps were first found ahead

    def __repr__(self) -> str:
        return f"<DatesAhead since {self._since_s}>"

    def found(self, ahead_s: float, now_s: float) -> bool:
        """Record by how much the newest stamp is ahead; return whether that is too far, and news.

        now_s: monotonic time.
        """
        if ahead_s <= self._drift_s:
            self._since_s = None
            return False
        # Known already: one line in the log for each time.
        if self._since_s is not None:
            return False
        self._since_s = now_s
        return True

    def are_steady(self, wall_s: float, now_s: float) -> bool:
        """Return whether stamps have been too far ahead for STEADY_S, by a clock that was set."""
        if self._since_s is None or wall_s < EARLIEST_S:
            return False
        return now_s >= self._since_s + STEADY_S

    def forget(self) -> None:
        """Begin anew, after new stamps were given."""
        self._since_s = None
