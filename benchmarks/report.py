"""Results as a Markdown table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Result

_COLUMNS = (
    "row",
    "server",
    "median",
    "low to high",
    "rate",
    "vs casd",
    "vs BuildGrid",
    "server CPU",
    "client CPU",
    "idle / peak RSS",
    "durability",
)


def header() -> str:
    """Return the table's first two lines."""
    return f"{_table_line(_COLUMNS)}\n{_table_line(['---'] * len(_COLUMNS))}"


def lines(results: Sequence[Result]) -> str:
    """Return one row's lines, a server each."""
    others = {result.server: result for result in results}
    return "\n".join(_line(result, others) for result in results)


def as_json(results: Sequence[Result]) -> list[dict[str, object]]:
    """Return results in base units: seconds and bytes for one call."""
    return [
        {
            "row": result.row.name,
            "title": result.row.title,
            "budget": result.row.budget,
            "server": result.server,
            "unit": "B" if result.row.memory else "s",
            "median": result.value,
            "round_medians": result.medians,
            "items_per_call": result.row.items,
            "item": result.row.item,
            "calls": result.calls,
            "server_cpu_s": result.server_cpu_s,
            "client_cpu_s": result.client_cpu_s,
            "idle_bytes": result.idle_bytes,
            "peak_bytes": result.peak_bytes,
            "durability": result.durability if result.row.stores else "",
        }
        for result in results
    ]


def _line(result: Result, others: dict[str, Result]) -> str:
    row = result.row
    show = _size if row.memory else _time
    cells = [
        row.title,
        result.server,
        show(result.value),
        f"{show(min(result.medians))} to {show(max(result.medians))}",
        "" if row.memory else _rate(result),
        _ratio(result, others.get("casd")),
        _ratio(result, others.get("buildgrid")),
        _cpu(result, result.server_cpu_s),
        _cpu(result, result.client_cpu_s),
        f"{_size(result.idle_bytes)} / {_size(result.peak_bytes)}",
        result.durability if row.stores else "",
    ]
    return _table_line(cells)


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(result: Result, other: Result | None) -> str:
    """How many times faster (or smaller) than the other: above 1 is better."""
    if other is None or other is result or result.value <= 0:
        return ""
    return f"{other.value / result.value:.2f}x"


def _rate(result: Result) -> str:
    per_s = result.row.items / result.value
    if result.row.item == "B":
        return f"{per_s / 1e9:.2f} GB/s" if per_s >= 1e8 else f"{per_s / 1e6:.1f} MB/s"
    return f"{per_s:,.0f}/s"


def _cpu(result: Result, cpu_s: float) -> str:
    """CPU of a call; for streams of a megabyte and more, per GB."""
    if result.row.item == "B" and result.row.items >= 2**20:
        return f"{cpu_s / result.row.items * 1e9:.2f} s/GB"
    return _time(cpu_s)


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
