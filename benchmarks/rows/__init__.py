"""The rows, in the order of the table."""

from __future__ import annotations

from benchmarks.base import RowSpec
from benchmarks.rows import batch, entries, memory, missing, read, start, tree, unary, write


def all_rows(*, quick: bool) -> dict[str, RowSpec]:
    """Return every row by name; quick makes the heavy ones small."""
    parts = [unary, missing, read, write, batch, tree, entries, start, memory]
    return {spec.name: spec for part in parts for spec in part.rows(quick=quick)}
