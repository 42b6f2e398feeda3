"""What was measured about replication as a Markdown table, a line for each kind of peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.replication.measure import Arrival
from benchmarks.report import show_size, show_time, table_line

_COLUMNS = ["replicated", "peer", "median", "must", "objects/s", "without a peer"]
_COLUMNS += ["CPU an object: sender", "CPU an object: peer", "peak RSS of the sender"]


def header() -> str:
    """Return the table's first two lines."""
    return f"{table_line(_COLUMNS)}\n{table_line(['---'] * len(_COLUMNS))}"


def lines(found: Sequence[Arrival]) -> str:
    """Return one row's lines."""
    return "\n".join(_line(each, first=each is found[0]) for each in found)


def _line(found: Arrival, *, first: bool) -> str:
    value = found.value
    spread = (max(found.seconds) - min(found.seconds)) / 2 / value
    beside = statistics.median(found.beside) if found.beside else 0.0
    return table_line(
        [
            found.row.title if first else "",
            found.peer,
            f"{show_time(value)} ±{spread:.0%}",
            found.row.must,
            "" if beside else f"{found.row.objects / value:,.0f}",
            f"{show_time(beside)}, {value / beside:.2f}x of it" if beside else "",
            show_time(found.sender_cpu_s),
            show_time(found.peer_cpu_s),
            show_size(found.peak_bytes),
        ]
    )


def as_json(found: Sequence[Arrival]) -> list[dict[str, object]]:
    """Return the same in seconds and bytes."""
    return [
        {
            "row": each.row.name,
            "title": each.row.title,
            "peer": each.peer,
            "objects": each.row.objects,
            "seconds": each.seconds,
            "without_peer_s": each.beside,
            "sender_cpu_s_per_object": each.sender_cpu_s,
            "peer_cpu_s_per_object": each.peer_cpu_s,
            "sender_peak_bytes": each.peak_bytes,
        }
        for each in found
    ]
