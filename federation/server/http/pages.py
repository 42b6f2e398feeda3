"""What each path of the HTTP face answers. Everything comes from memory: no disk, no waiting."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from federation.observability.metrics import Metrics
from federation.server.http.status_page import status_page
from federation.server.readiness import Readiness

_LINKS = {"metrics": "/metrics", "alive": "/healthz", "ready": "/readyz"}


class Pages:
    """Answers GET and HEAD of /, /metrics, /healthz and /readyz."""

    def __init__(
        self,
        metrics: Metrics,
        readiness: Readiness,
        about: Callable[[], Mapping[str, Any]],
        limits_reached: Callable[[], list[str]] = list,
    ) -> None:
        """Take what the pages show.

        about: gives the facts of the index page. limits_reached: the bounds on callers that were
        reached lately; /readyz shows them, and stays as it is.
        """
        self._limits_reached = limits_reached
        self._metrics = metrics
        self._readiness = readiness
        self._about = about
        self._pages = {
            "/": self._index,
            "/metrics": self._exposition,
            "/healthz": self._alive,
            "/readyz": self._ready,
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": "only GET and HEAD are answered here"})
        page = self._pages.get(request.path)
        if page is None:
            return _json(404, {"error": "no such page", "pages": list(self._pages)})
        return page(request)

    def _index(self, request: web.BaseRequest) -> web.Response:
        facts = {**self._about(), **self._state(), "links": _LINKS}
        if "text/html" not in request.headers.get("Accept", ""):
            return _json(200, facts)
        return web.Response(text=status_page(facts, _LINKS), content_type="text/html")

    def _exposition(self, _request: web.BaseRequest) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _alive(self, _request: web.BaseRequest) -> web.Response:
        return _json(200, {"status": "alive"})

    def _ready(self, _request: web.BaseRequest) -> web.Response:
        state: dict[str, Any] = dict(self._state())
        if reached := self._limits_reached():
            state["limits-reached"] = reached
        return _json(200 if state["status"] == "serving" else 503, state)

    def _state(self) -> dict[str, str]:
        serving, reason = self._readiness.verdict()
        if serving:
            return {"status": "degraded", "reason": reason} if reason else {"status": "serving"}
        return {"status": "unavailable", "reason": reason}


def _json(status: int, facts: Mapping[str, Any]) -> web.Response:
    text = json.dumps(facts, indent=2) + "\n"
    return web.Response(status=status, text=text, content_type="application/json")
