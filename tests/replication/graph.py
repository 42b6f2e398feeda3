"""Which nodes are connected to which, over however many others."""

from __future__ import annotations

from collections.abc import Collection


def reached(start: str, edges: Collection[tuple[str, str]]) -> set[str]:
    """Return where one comes to from start, start included; edges: (from, to)."""
    found, fresh = {start}, [start]
    while fresh:
        here = fresh.pop()
        new = {to for source, to in edges if source == here} - found
        found |= new
        fresh += new
    return found
