"""The paths that the HTTP listener answers, and the form of each answer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from federation.access.incoming_call import IncomingCall
from federation.server.http.status_page import status_page

HEALTH = frozenset({"/healthz", "/readyz"})  # what tells nothing of a node but how it is
_LINKS = {"metrics": "/metrics", "alive": "/healthz", "ready": "/readyz"}


class HttpRequest(NamedTuple):
    """What is looked at of a request."""

    method: str
    path: str
    accept: str = ""  # the Accept header
    host: str = ""  # the Host header
    query: str = ""  # what follows the question mark, as it came
    caller: IncomingCall | None = None


class HttpAnswer(NamedTuple):
    """A whole answer; content_type is the header with its parameters."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] | None = None  # further ones


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

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request."""
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": "only GET and HEAD are answered here"})
        if request.path == "/metrics":
            text = await self.exposition()
            # Not above: exposition() has imported it, in its own way.
            from prometheus_client import CONTENT_TYPE_LATEST  # noqa: PLC0415

            return HttpAnswer(200, CONTENT_TYPE_LATEST, text)
        if request.path == "/healthz":
            return _json(200, {"status": "alive"})
        if request.path == "/readyz":
            state = await self.readiness()
            return _json(200 if state["status"] == "serving" else 503, state)
        if request.path == "/":
            return await self._index(request)
        return _json(404, {"error": "no such page", "pages": ["/", *_LINKS.values()]})

    async def _index(self, request: HttpRequest) -> HttpAnswer:
        facts = {**await self.facts(), "links": _LINKS}
        if "text/html" not in request.accept:
            return _json(200, facts)
        page = status_page(facts, _LINKS)
        return HttpAnswer(200, "text/html; charset=utf-8", page.encode())


def _json(status: int, facts: Mapping[str, Any]) -> HttpAnswer:
    text = json.dumps(facts, indent=2) + "\n"
    return HttpAnswer(status, "application/json; charset=utf-8", text.encode())
