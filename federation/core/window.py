"""Times of the day in which something may happen. Pure: callers pass the time."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

_DAY_MIN = 24 * 60


class Window(NamedTuple):
    """From one minute of the local day up to another, over midnight where that is earlier.

    The same minute twice is the whole day.
    """

    begin_min: int
    end_min: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read HH:MM-HH:MM, as the configuration has checked it."""
        begin, end = text.split("-")
        return cls(_minute(begin), _minute(end))

    def is_open(self, wall_s: float) -> bool:
        """Whether the window is open now, in the local time of the node."""
        return self.opens_in_s(wall_s) == 0

    def opened_ago_s(self, wall_s: float) -> float:
        """Return how many seconds ago the window opened last, whether or not it is still open."""
        local = datetime.fromtimestamp(wall_s)
        minutes = (local.hour * 60 + local.minute - self.begin_min) % _DAY_MIN
        return minutes * 60.0 + local.second + local.microsecond / 1e6

    def opens_in_s(self, wall_s: float) -> float:
        """Return the seconds until the window opens; 0 while it is open."""
        local = datetime.fromtimestamp(wall_s)  # the operator's time of day
        minute = local.hour * 60 + local.minute
        # 0 minutes long would never open, so the same minute twice means the whole day.
        length_min = (self.end_min - self.begin_min) % _DAY_MIN or _DAY_MIN
        if (minute - self.begin_min) % _DAY_MIN < length_min:
            return 0.0
        wait_min = (self.begin_min - minute) % _DAY_MIN
        # Never 0 while it is closed: a caller that waits for 0 s would ask again and again.
        return max(1.0, wait_min * 60.0 - local.second)


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
