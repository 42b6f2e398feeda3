"""Trouble that lasts is logged when it begins, when it changes, and once a minute."""

from __future__ import annotations

from typing import Any

from federation.core.clock import Clock

_AGAIN_S = 60.0


class Complaints:
    """Remembers what was said last about each event."""

    def __init__(self, log: Any, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, tuple[str, float]] = {}

    def warn(self, event: str, error: Exception | str) -> None:
        """Log the event with the error's reason, unless that was said a moment ago."""
        reason, now_s = str(error), self._clock.monotonic_s()
        said, at_s = self._said.get(event, ("", 0.0))
        if reason != said or now_s - at_s >= _AGAIN_S:
            self._said[event] = (reason, now_s)
            self._log.warning(event, reason=reason)
