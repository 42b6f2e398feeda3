"""Queries and updates for the removal of index entries: by eviction, or because of their age.

What pins keep is never removed so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.index import EntryKind
from federation.storage.catalogue import entries, instances, keepings
from federation.storage.catalogue.footprint import ENTRY_SIZE, cost_of_entry
from federation.storage.catalogue.peer_records import PeerHolds
from federation.storage.catalogue.transaction import Transaction


def eviction_candidates(
    connection: apsw.Connection,
    from_ms: int,
    before_ms: int,
    holds: PeerHolds,
    limit: int,
    *,
    pulled: bool,
) -> list[tuple[int, int, int]]:
    """Return (used, cost, row id) of entries that no pin keeps and no peer waits for.

    The least recently used ones come first. Only entries last used in from_ms..before_ms (store
    ms). pulled: only those that an upstream gave; otherwise only the others.
    """
    rows: Any = connection.execute(
        f"SELECT used, {ENTRY_SIZE}, id FROM entry "  # noqa: S608 - constants
        f"WHERE kept = 0 AND source {'=' if pulled else '<>'} 1 AND used >= ? AND used < ? "
        "AND seq <= ? ORDER BY used LIMIT ?",
        (from_ms, before_ms, holds.pulled if pulled else holds.received, limit),
    ).fetchall()
    return [(used, cost_of_entry(size), row_id) for used, size, row_id in rows]


class EntryUse(NamedTuple):
    """When an entry was last used."""

    name: bytes
    id: int
    used_ms: int


def uses(
    connection: apsw.Connection, kind: EntryKind, instance: str, after: bytes, limit: int
) -> list[EntryUse]:
    """Return the entries of an instance with names above this one that no pin keeps, in order."""
    rows: Any = connection.execute(
        "SELECT name, id, used FROM entry "  # noqa: S608 - constants
        f"WHERE kind = ? AND instance = {instances.ID} AND name > ? AND kept = 0 "
        "ORDER BY name LIMIT ?",
        (int(kind), instance, after, limit),
    ).fetchall()
    return [EntryUse._make(row) for row in rows]


def any_unleased(connection: apsw.Connection, before_ms: int) -> bool:
    """Return whether any entry that no pin keeps was last used before before_ms."""
    row = connection.execute(
        "SELECT 1 FROM entry WHERE kept = 0 AND used < ? LIMIT 1", (before_ms,)
    ).fetchone()
    return row is not None


def delete(transaction: Transaction, ids: Sequence[int], before_ms: int) -> tuple[int, int]:
    """Delete those entries that no pin keeps and that were not used since before_ms (store ms).

    Returns their number and bytes.
    """
    size = cost = 0
    gone = []
    # Keys are not read for it: evicting thousands would only overflow the list.
    transaction.changes_any_entry = True
    for row_id in ids:
        rows: Any = transaction.connection.execute(
            "DELETE FROM entry WHERE id = ? AND used < ? AND kept = 0 RETURNING value, label",
            (row_id, before_ms),
        ).fetchall()
        for value, label in rows:
            gone.append(row_id)
            size += entries.size_of(value, label)
            cost += cost_of_entry(entries.size_of(value, label))
    keepings.end_of_entries(transaction, gone)  # those that pins left out
    transaction.totals.entries -= len(gone)
    transaction.totals.size_bytes -= size
    transaction.grown_bytes -= cost
    return len(gone), size
