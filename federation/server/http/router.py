"""The paths that the HTTP listener answers, and the form of each answer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from federation.server.http.status_page import status_page

_LINKS = {"metrics": "/metrics", "alive": "/healthz", "ready": "/readyz"}


class Router(ABC):
    """Answers GET and HEAD of /, /metrics, /healthz and /readyz; subclasses say what is shown."""

    @abstractmethod
    async def facts(self) -> Mapping[str, Any]:
        """Return what the index page shows, as JSON or as a page for people."""

    @abstractmethod
    async def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""

    @abstractmethod
    async def readiness(self) -> Mapping[str, Any]:
        """Return "status" and what else /readyz shows; any status but "serving" is a 503."""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": "only GET and HEAD are answered here"})
        if request.path == "/metrics":
            headers = {"Content-Type": CONTENT_TYPE_LATEST}
            return web.Response(body=await self.exposition(), headers=headers)
        if request.path == "/healthz":
            return _json(200, {"status": "alive"})
        if request.path == "/readyz":
            state = await self.readiness()
            return _json(200 if state["status"] == "serving" else 503, state)
        if request.path == "/":
            return await self._index(request)
        return _json(404, {"error": "no such page", "pages": ["/", *_LINKS.values()]})

    async def _index(self, request: web.BaseRequest) -> web.Response:
        facts = {**await self.facts(), "links": _LINKS}
        if "text/html" not in request.headers.get("Accept", ""):
            return _json(200, facts)
        return web.Response(text=status_page(facts, _LINKS), content_type="text/html")


def _json(status: int, facts: Mapping[str, Any]) -> web.Response:
    text = json.dumps(facts, indent=2) + "\n"
    return web.Response(status=status, text=text, content_type="application/json")
