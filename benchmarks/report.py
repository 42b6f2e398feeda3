"""Results as a Markdown table, one line for each row, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.measure import Result

# Whose ratios are told, and to whom; in a table, the first that is there.
_COMPARED = {
    "federation-shared": ("federation", "obstore"),
    "federation": ("casd", "buildgrid", "federation-grpc", "nginx"),
}


def header(servers: Sequence[str]) -> str:
    """Return the table's first two lines."""
    together = " / ".join(servers)
    compared = [f"vs {name}" for name in _compared(servers)]
    columns = ["row", *servers, *compared]
    columns += [f"{what}: {together}" for what in ("server CPU", "client CPU", "peak RSS", "OK is")]
    return f"{table_line(columns)}\n{table_line(['---'] * len(columns))}"


def line(results: Sequence[Result], servers: Sequence[str]) -> str:
    """Return one row's line; a server that the row leaves out has dashes."""
    measured = {result.server: result for result in results}

    def each(show: Callable[[Result], str]) -> list[str]:
        return [show(measured[name]) if name in measured else "-" for name in servers]

    base = measured.get(_base(servers))
    cells = [results[0].row.title, *each(_value)]
    cells += [_ratio(base, measured.get(name)) for name in _compared(servers)]
    cells += [
        " / ".join(each(lambda result: _cpu(result, result.server_cpu_s))),
        " / ".join(each(lambda result: _cpu(result, result.client_cpu_s))),
        " / ".join(each(lambda result: show_size(result.peak_bytes))),
        " / ".join(each(lambda result: result.durability)) if results[0].row.stores else "",
    ]
    return table_line(cells)


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


def _base(servers: Sequence[str]) -> str:
    return next((name for name in _COMPARED if name in servers), "")


def _compared(servers: Sequence[str]) -> list[str]:
    return [name for name in _COMPARED.get(_base(servers), ()) if name in servers]


def table_line(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _value(result: Result) -> str:
    row = result.row
    spread = (max(result.medians) - min(result.medians)) / 2 / result.value
    told = show_size(result.value) if row.memory else show_time(result.value)
    rate = f", {_rate(result)}" if row.items > 1 else ""
    return f"{told} ±{spread:.0%}{rate}"


def _ratio(base: Result | None, other: Result | None) -> str:
    """How many times faster (or smaller) than the other: above 1 is better."""
    if base is None or other is None or base.value <= 0:
        return "-"
    return f"{other.value / base.value:.2f}x"


def _rate(result: Result) -> str:
    per_s = result.row.items / result.value
    if result.row.item == "B":
        return f"{per_s / 1e9:.2f} GB/s" if per_s >= 1e8 else f"{per_s / 1e6:.1f} MB/s"
    return f"{per_s:,.0f} {result.row.plural}/s"


def _cpu(result: Result, cpu_s: float) -> str:
    """CPU of a call; for streams of a megabyte and more, per GB."""
    if result.row.item == "B" and result.row.items >= 2**20:
        return f"{cpu_s / result.row.items * 1e9:.2f} s/GB"
    return show_time(cpu_s)


def show_time(seconds: float) -> str:
    """Return seconds in a unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def show_size(size_bytes: float) -> str:
    """Return bytes in MiB."""
    return f"{size_bytes / 2**20:.0f} MiB"
