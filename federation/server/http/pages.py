"""What the pages of one process show. Everything comes from memory: no disk, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from federation.observability.families import Family
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
        self._write: Callable[[Iterable[Family]], bytes] | None = None  # from the first scrape on

    async def facts(self) -> Mapping[str, Any]:
        """See Router."""
        return {**self._about(), **self._state()}

    async def exposition(self) -> bytes:
        """See Router."""
        if self._write is None:
            # Not above: many a node is never scraped. In a thread, as calls go on meanwhile.
            module = await asyncio.to_thread(import_module, "federation.observability.exposition")
            self._write = partial(module.exposition, with_process=True)
        return self._write(self._metrics.declared.families())

    async def readiness(self) -> Mapping[str, Any]:
        """See Router."""
        reached = self._limits_reached()
        return {**self._state(), "limits-reached": reached} if reached else self._state()

    def _state(self) -> dict[str, str]:
        serving, reason = self._readiness.verdict()
        if serving:
            return {"status": "degraded", "reason": reason} if reason else {"status": "serving"}
        return {"status": "unavailable", "reason": reason}
