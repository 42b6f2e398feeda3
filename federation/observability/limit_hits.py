"""Limits that were reached: every hit is counted, some are logged, recent ones are shown."""

from __future__ import annotations

import structlog

from federation.core.clock import Clock
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LogLimit

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
        self._metrics.limits_hit.labels(limit=limit).inc()
        self._last_s[limit] = self._clock.monotonic_s()
        lines = self._lines.get(limit)
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
