"""The page itself: its facts together, rendered, with the headers that browsers obey."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from federation.core.clock import Clock, utc_text
from federation.observability.statistics.history import History
from federation.observability.statistics.report import report
from federation.server.dashboard import charts, mesh
from federation.server.dashboard.stored import Stored, StoredReader
from federation.server.http.router import HttpAnswer, HttpRequest
from federation.server.status import formats
from federation.server.status.attention import FINE_UPSTREAMS
from federation.server.status.facts import together, upstream_state, upstreams_of
from federation.server.status.overview import overview
from federation.server.status.peer_facts import FINE_PEERS

if TYPE_CHECKING:
    from jinja2 import Template

_FILES = {"/dashboard.css": "text/css", "/dashboard.js": "text/javascript"}
_SHOWN_MAX = 20
_ASKED_MAX = 2000
_ANSWER_S = 3.0  # for an explanation
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_NO_DAY: Mapping[str, int] = {"hits": 0, "received-bytes": 0, "saved-bytes": 0, "sent-bytes": 0}

Explain = Callable[[str], Mapping[str, Any]]  # blocks; see explained.explain_here


class Dashboard:
    """Answers with the page and its files."""

    def __init__(self, stored: StoredReader, explain: Explain, clock: Clock) -> None:
        self._stored = stored
        self._explain = explain
        self._clock = clock
        self._explaining: asyncio.Future[Mapping[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"<Dashboard of {self._stored!r}>"

    async def answer(
        self, request: HttpRequest, facts: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> HttpAnswer | None:
        """Answer a request for the page or a file of it; None: it is for neither.

        facts: returns what the processes say of themselves (Router.facts).
        """
        if (kind := _FILES.get(request.path)) is not None:
            body = await asyncio.to_thread(_file, request.path[1:])
            return HttpAnswer(200, f"{kind}; charset=utf-8", body, _HEADERS)
        if request.path != "/" or "text/html" not in request.accept:
            return None
        asked = _asked_in(request.query)
        explained = await self._explained(asked) if asked else None
        shown = self._shown(await facts(), await self._stored.get())
        # The engine is imported and the template compiled at the first page: tens of milliseconds.
        template = await asyncio.to_thread(_template)
        text = template.render(**shown, asked=asked, explained=explained)
        return HttpAnswer(200, "text/html; charset=utf-8", text.encode(), _HEADERS)

    async def _explained(self, asked: str) -> str:
        """Return what is known here of an object, as text. One is looked for at a time."""
        # A thread cannot be stopped, and on a hung disk each reload of the page would leave
        # another.
        if self._explaining is not None and not self._explaining.done():
            return "Another question is being answered just now; ask again."
        self._explaining = asyncio.ensure_future(asyncio.to_thread(self._explain, asked))
        await asyncio.wait({self._explaining}, timeout=_ANSWER_S)
        if not self._explaining.done():
            return "The disk did not answer in time."
        return json.dumps(self._explaining.result(), indent=2, default=str, ensure_ascii=False)

    def _shown(self, own: Mapping[str, Any], stored: Stored | None) -> dict[str, Any]:
        wall_s = self._clock.wall_s()
        history = History() if stored is None else stored.history
        statistics = report(history, wall_s)
        # The parent of workers has facts of each; a node alone is its only process.
        processes = own.get("workers") or [{"pid": os.getpid(), **own}]
        problems = [] if stored is None else stored.problems
        summary = {} if stored is None else stored.summary
        facts = together(
            summary,
            processes,
            None,
            {"statistics": statistics, "statistics-problems": problems},
        )
        upstreams, day = upstreams_of(facts), statistics["day"]
        reason = f": {own['reason']}" if own.get("reason") else ""
        return {
            "node": own.get("node", ""),
            "version": own.get("version", ""),
            "serving": own.get("status") == "serving",
            "state": f"{own.get('status', '')}{reason}",
            "now": utc_text(wall_s),
            "lines": overview(facts, wall_s),
            "attention": facts["attention"],
            "charts": charts.charts(history, wall_s),
            "chart_width": charts.WIDTH,
            "chart_height": charts.HEIGHT,
            "mesh": mesh.mesh(upstreams, facts["peers"], day),
            "mesh_width": mesh.WIDTH,
            "upstreams": [
                {
                    "name": each["name"],
                    "state": upstream_state(each),
                    "good": each["state"] in FINE_UPSTREAMS,
                    "day": _named(day["upstreams"], each["name"]),
                }
                for each in upstreams
            ],
            "peers": [
                {
                    **each,
                    "good": each["state"] in FINE_PEERS,
                    "day": _named(day["peers"], each["name"]),
                }
                for each in facts["peers"]
            ],
            "instances": [each for each in day["instances"] if _moved(each)][:_SHOWN_MAX],
            "quarantine": summary.get("quarantine", {}).get("newest", []),
            "lost": summary.get("healing", {}).get("lost", 0),
            "parked": [] if stored is None else stored.parked,
            "warnings": _warnings(processes),
        }


def _asked_in(query: str) -> str:
    """Return what is to be explained; empty: nothing, or the query cannot be read."""
    with suppress(ValueError):  # too many fields
        return parse_qs(query, max_num_fields=10).get("explain", [""])[0].strip()[:_ASKED_MAX]
    return ""


def _named(parts: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((each for each in parts if each["name"] == name), _NO_DAY)


def _moved(instance: Mapping[str, Any]) -> bool:
    return any(instance[key] for key in ("hits", "misses", "in-bytes", "out-bytes"))


def _warnings(processes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, str]]:
    found = [each for process in processes for each in process.get("recent-warnings", ())]
    found.sort(key=lambda each: str(each["at"]), reverse=True)
    return found[:_SHOWN_MAX]


def _file(name: str) -> bytes:
    return (files("federation.server.dashboard") / "files" / name).read_bytes()


@cache
def _template() -> Template:
    """Load the template engine, which is not needed before."""
    from jinja2 import Environment  # noqa: PLC0415 - see above

    engine = Environment(autoescape=True)
    engine.filters |= {
        "rounded": formats.rounded,
        "number": formats.grouped,
        "span": formats.span,
        "percent": formats.percent,
    }
    return engine.from_string(_file("page.html.j2").decode())
