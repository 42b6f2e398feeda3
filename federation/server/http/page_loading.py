"""The dashboard, imported when a browser first asks: programs never do, and starts stay short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

from federation.config.model import Config
from federation.core.clock import Clock
from federation.server.http.router import HttpAnswer, HttpRequest, PageHandler

_ROOM = "federation.server.dashboard.setup"


class LazyDashboard:
    """Loads the dashboard for the first request that may be for it; implements PageHandler."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._loading = asyncio.Lock()
        self._page: PageHandler | None = None

    def __repr__(self) -> str:
        return f"<LazyDashboard{'' if self._page is None else ', loaded'}>"

    async def answer(
        self, request: HttpRequest, facts: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> HttpAnswer | None:
        """See PageHandler."""
        is_page = request.path == "/" and "text/html" in request.accept
        if not is_page and not request.path.startswith("/dashboard."):
            return None
        # The first page brings requests for its files at the same time.
        async with self._loading:
            if self._page is None:
                room = await asyncio.to_thread(import_module, _ROOM)
                self._page = room.make_dashboard(self._config, self._clock)
        return await self._page.answer(request, facts)
