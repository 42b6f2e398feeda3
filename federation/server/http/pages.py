"""What the pages of one process show. Everything comes from memory: no disk, no waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import generate_latest

from federation.observability.metrics import Metrics
from federation.server.http.router import Router
from federation.server.readiness import Readiness


class Pages(Router):
    """See Router."""

    def __init__(
        self,
        metrics: Metrics,
        readiness: Readiness,
        about: Callable[[], Mapping[str, Any]],
        limits_reached: Callable[[], list[str]] = list,
    ) -> None:
        """Take what the pages show.

        about: gives the facts of the index page. limits_reached: gives the bounds on callers that
        were reached lately; /readyz shows them, but they do not change its status.
        """
        self._limits_reached = limits_reached
        self._metrics = metrics
        self._readiness = readiness
        self._about = about

    async def facts(self) -> Mapping[str, Any]:
        """See Router."""
        return {**self._about(), **self._state()}

    async def exposition(self) -> bytes:
        """See Router."""
        return generate_latest(self._metrics.registry)

    async def readiness(self) -> Mapping[str, Any]:
        """See Router."""
        reached = self._limits_reached()
        return {**self._state(), "limits-reached": reached} if reached else self._state()

    def _state(self) -> dict[str, str]:
        serving, reason = self._readiness.verdict()
        if serving:
            return {"status": "degraded", "reason": reason} if reason else {"status": "serving"}
        return {"status": "unavailable", "reason": reason}
