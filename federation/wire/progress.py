"""Whether a sender moves at all: a timer for silence is reset by one byte now and then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StreamProgress:
    """Counts bytes over windows of time; a window with too few of them is a stall."""

    window_s: float
    begun_s: float
    least_bytes: int = 4096
    _seen_bytes: int = 0

    def saw(self, size_bytes: int, now_s: float) -> bool:
        """Take note of bytes. False: too few came in the window that has just ended."""
        self._seen_bytes += size_bytes
        if now_s - self.begun_s < self.window_s:
            return True
        enough = self._seen_bytes >= self.least_bytes
        self.begun_s, self._seen_bytes = now_s, 0
        return enough
