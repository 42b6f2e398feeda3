"""The paths that the HTTP listener answers, and the form of each answer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

from federation.access.incoming_call import IncomingCall

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


Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]


class PageHandler(Protocol):
    """A page for people, and the files that browsers load beside it."""

    async def answer(
        self, request: HttpRequest, facts: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> HttpAnswer | None:
        """Answer a request; None: it is for neither. facts: see Router."""
        ...


class Router(ABC):
    """Answers GET and HEAD of /, /metrics, /healthz and /readyz; subclasses say what is shown."""

    dashboard: PageHandler | None = None  # what browsers get; programs get JSON

    @abstractmethod
    async def facts(self) -> Mapping[str, Any]:
        """Return what is known of the node, as / answers it to programs."""

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
        if request.path == "/healthz":
            return _json(200, {"status": "alive"})
        if request.path == "/readyz":
            state = await self.readiness()
            return _json(200 if state["status"] == "serving" else 503, state)
        return await self._page(request)

    async def _page(self, request: HttpRequest) -> HttpAnswer:
        """Answer a request for anything but health."""
        if request.path == "/metrics":
            text = await self.exposition()
            # Not above: exposition() has imported it, in its own way.
            from prometheus_client import CONTENT_TYPE_LATEST  # noqa: PLC0415

            return HttpAnswer(200, CONTENT_TYPE_LATEST, text)
        if self.dashboard is not None:
            answer = await self.dashboard.answer(request, self.facts)
            if answer is not None:
                return answer
        if request.path == "/":
            return _json(200, {**await self.facts(), "links": _LINKS})
        return _json(404, {"error": "no such page", "pages": ["/", *_LINKS.values()]})


def _json(status: int, facts: Mapping[str, Any]) -> HttpAnswer:
    text = json.dumps(facts, indent=2) + "\n"
    return HttpAnswer(status, "application/json; charset=utf-8", text.encode())
