"""The rows, in the order of the table."""

from __future__ import annotations

from benchmarks.base import RowSpec
from benchmarks.rows import (
    batch,
    buildstream,
    entries,
    floor,
    growth,
    huge,
    in_flight,
    memory,
    missing,
    read,
    recorded,
    start,
    tree,
    unary,
    write,
)


def all_rows(*, quick: bool) -> dict[str, RowSpec]:
    """Return every row by name; quick makes the heavy ones small."""
    parts = [unary, floor, missing, growth, read, huge, write, batch, tree, entries, in_flight]
    parts += [recorded, buildstream, start, memory]
    return {spec.name: spec for part in parts for spec in part.rows(quick=quick)}
