"""Reads through proxies as a Markdown table, a line for each way, and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.mirror.measure import DISK, Way
from benchmarks.report import show_size, show_time, table_line

_COLUMNS = [
    *("read", "from", "first byte", "beyond direct", "whole", "to direct"),
    *("CPU: upstream", "CPU: proxy", "CPU: client", "upstream reads", "peak RSS"),
]


def header() -> str:
    """Return the table's first two lines."""
    return f"{table_line(_COLUMNS)}\n{table_line(['---'] * len(_COLUMNS))}"


def lines(ways: Sequence[Way]) -> str:
    """Return one row's lines."""
    direct = next(way for way in ways if way.state == "direct")
    return "\n".join(_line(way, direct) for way in ways)


def _line(way: Way, direct: Way) -> str:
    told = way is not direct
    first = statistics.median(way.firsts)
    beyond = first - statistics.median(direct.firsts)
    whole = statistics.median(way.wholes)
    one_message = way.row.one_message or way.server == DISK
    return table_line(
        [
            "" if told else way.row.title,
            f"{way.server}, {way.state}",
            "" if one_message else _spread(way.firsts),
            f"{beyond * 1e3:+.2f} ms" if told and not one_message else "",
            _spread(way.wholes),
            f"{whole / statistics.median(direct.wholes):.2f}x" if told else "",
            *(_costs(way, told) if way.server != DISK else [""] * 5),
        ]
    )


def _costs(way: Way, told: bool) -> list[str]:
    return [
        show_time(way.per_call(lambda each: each.upstream_cpu_s)),
        show_time(way.per_call(lambda each: each.proxy_cpu_s)) if told else "",
        show_time(way.per_call(lambda each: each.client_cpu_s)),
        f"{way.per_call(lambda each: each.upstream_reads):.3g}",
        show_size(way.peak_bytes),
    ]


def as_json(ways: Sequence[Way]) -> list[dict[str, object]]:
    """Return ways in seconds and bytes; CPU and reads are for one call."""
    return [
        {
            "row": way.row.name,
            "title": way.row.title,
            "server": way.server,
            "state": way.state,
            "first_byte_s": way.firsts,
            "whole_s": way.wholes,
            "upstream_cpu_s": way.per_call(lambda each: each.upstream_cpu_s),
            "proxy_cpu_s": way.per_call(lambda each: each.proxy_cpu_s),
            "client_cpu_s": way.per_call(lambda each: each.client_cpu_s),
            "upstream_reads": way.per_call(lambda each: each.upstream_reads),
            "peak_bytes": way.peak_bytes,
        }
        for way in ways
    ]


def _spread(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{show_time(middle)} ±{(max(values) - min(values)) / 2 / middle:.0%}"
