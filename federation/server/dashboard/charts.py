"""Charts as the numbers of SVG paths. Pure; the template draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from federation.observability.statistics.history import History, Period, Point
from federation.server.status.formats import grouped, rounded

WIDTH, HEIGHT = 600, 120
_FLOOR = 1e-9


class ChartSeries(NamedTuple):
    """One curve: its name, the total that is said beside it, and its path."""

    name: str
    total: str
    line: str
    area: str


class Chart(NamedTuple):
    """One chart; highest: the label of its upper edge."""

    title: str
    highest: str
    series: list[ChartSeries]
    ticks: list[tuple[float, str]]  # x, and the hour (UTC) there


def charts(history: History, wall_s: float) -> list[Chart]:
    """Return the charts of the last day."""
    asked = history.course(Period.DAY, "instance", wall_s)
    links = history.course(Period.DAY, "upstream", wall_s)
    calls = history.course(Period.DAY, "node", wall_s)
    return [
        _chart("Look-ups", [("hits", asked, "hits"), ("misses", asked, "misses")], grouped),
        _chart(
            "Bytes",
            [("served", asked, "out-bytes"), ("from upstreams", links, "received-bytes")],
            rounded,
        ),
        _chart("Requests", [("calls", calls, "calls")], grouped),
    ]


def _chart(
    title: str, curves: Sequence[tuple[str, list[Point], str]], shown: Callable[[int], str]
) -> Chart:
    values = [
        (name, [max(0, point.counts.get(key, 0)) for point in points])
        for name, points, key in curves
    ]
    top = max((max(each) for _, each in values), default=0)
    series = [ChartSeries(name, shown(sum(each)), *_paths(each, top)) for name, each in values]
    return Chart(title, f"{shown(top)} in 10 min", series, _ticks(curves[0][1]))


def _paths(values: Sequence[int], top: int) -> tuple[str, str]:
    """Return the line through these values, and the area below it."""
    step = WIDTH / max(1, len(values) - 1)
    height = HEIGHT - 4  # the line's own width stays within
    places = [
        f"{at * step:.1f} {HEIGHT - 2 - height * value / max(top, _FLOOR):.1f}"
        for at, value in enumerate(values)
    ]
    line = "M" + " L".join(places)
    return line, f"{line} L{WIDTH} {HEIGHT} L0 {HEIGHT}Z"


def _ticks(points: Sequence[Point]) -> list[tuple[float, str]]:
    step = WIDTH / max(1, len(points) - 1)
    found = []
    for at, point in enumerate(points):
        moment = datetime.fromtimestamp(point.start_s, UTC)
        if moment.minute == 0 and moment.hour % 6 == 0:
            found.append((round(at * step, 1), f"{moment.hour:02}:00"))
    return found
