"""Bounds on the log: lines that clients cause, lasting trouble, and limits that were hit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import structlog

from federation.core.clock import Clock
from federation.core.token_bucket import TokenBucket
from federation.observability.metrics import Metrics


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
        # Full at the beginning: the first lines of a trouble are the ones that explain it.
        self._lines = TokenBucket(self.per_second, self.burst, now_s, tokens=self.burst)

    def admit(self) -> int | None:
        """Return how many lines were held back since the last one; None: hold this one back."""
        if not self._lines.try_spend(1, self.clock.monotonic_s()):
            self._held_back += 1
            return None
        held_back, self._held_back = self._held_back, 0
        return held_back


_AGAIN_S = 60.0


def once_a_minute(clock: Clock) -> LogLimit:
    """Return a bound for a line that thousands of calls a minute would write."""
    return LogLimit(clock, per_second=1 / _AGAIN_S, burst=1.0)


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
        # A new reason is news even within the minute.
        if reason != logged or now_s - at_s >= _AGAIN_S:
            self._logged[event] = (reason, now_s)
            self._log.warning(event, reason=reason)


_log = structlog.get_logger(__name__)
_PER_SECOND, _BURST = 0.1, 5.0  # lines for each limit
_RECENT_S = 60.0


class LimitHits:
    """Records every limit of a node that was reached.

    Names are keys of `limits`, or of built-in bounds, with a dot in it: a closed set.
    """

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lines: dict[str, LogLimit] = {}
        self._last_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<LimitHits {', '.join(self.recent()) or 'none'}>"

    def hit(self, limit: str, caller: str, peer: str = "", **facts: object) -> None:
        """Record that this caller reached this limit; peer: its address, if known."""
        # The metric is exact, however few lines are written.
        self._metrics.limits_hit.labels(limit=limit).inc()
        self._last_s[limit] = self._clock.monotonic_s()
        lines = self._lines.get(limit)
        # Each limit has its own bound, so that one does not hide another.
        if lines is None:
            lines = self._lines[limit] = LogLimit(self._clock, _PER_SECOND, _BURST)
        if (held_back := lines.admit()) is not None:
            where = {"peer": peer} if peer else {}
            _log.warning(
                "limit_hit",
                limit=limit if "." in limit else f"limits.{limit}",
                caller=caller,
                **where,
                **facts,
                held_back=held_back,
            )

    def recent(self) -> list[str]:
        """Return the limits that were reached within the last minute."""
        since_s = self._clock.monotonic_s() - _RECENT_S
        return sorted(limit for limit, at_s in self._last_s.items() if at_s >= since_s)
