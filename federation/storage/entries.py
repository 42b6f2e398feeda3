"""The catalogue's questions and changes about index entries (action results and assets)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from federation.errors import StorageFull
from federation.storage.transaction import Transaction
from federation.store import Entry, EntryKey, Provenance, Source

_GET = (
    "SELECT id, accessed, value, label, stored, expires, source, origin FROM entry "
    "WHERE kind = ? AND instance = ? AND name = ?"
)
_UPSERT = (
    "INSERT INTO entry (kind, instance, name, value, label, stored, expires, source, origin, "
    "accessed, seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) "
    "ON CONFLICT (kind, instance, name) DO UPDATE SET value = ?4, label = ?5, stored = ?6, "
    "expires = ?7, source = ?8, origin = ?9, accessed = ?10, seq = ?11"
)


def size_of(value: bytes, label: str) -> int:
    """Return what an entry counts against the quota."""
    return len(value) + len(label.encode())


def get(
    connection: apsw.Connection, keys: Sequence[EntryKey]
) -> list[tuple[int, int, Entry] | None]:
    """Return (row id, accessed, entry) of each key, None where there is no such entry."""
    found: list[tuple[int, int, Entry] | None] = []
    for key in keys:
        row: Any = connection.execute(_GET, (int(key.kind), key.instance, key.name)).fetchone()
        if row is None:
            found.append(None)
            continue
        row_id, accessed, value, label, stored, expires, source, origin = row
        entry = Entry(key, value, label, stored, expires, Source(source), origin)
        found.append((row_id, accessed, entry))
    return found


def put(transaction: Transaction, entries: Sequence[Entry], origin: Provenance) -> None:
    """Store entries; one that is held with the same value is renewed without a log row.

    What was pushed here stays until it expires: an entry from an upstream does not replace it.

    Raises StorageFull, before anything of that entry changed.
    """
    for entry in entries:
        _put(transaction, entry, origin)


def _put(transaction: Transaction, entry: Entry, origin: Provenance) -> None:
    kind, instance, name = int(entry.key.kind), entry.key.instance, entry.key.name
    execute = transaction.connection.execute
    old: Any = execute(
        "SELECT value, label, expires, seq, source FROM entry "
        "WHERE kind = ? AND instance = ? AND name = ?",
        (kind, instance, name),
    ).fetchone()
    if old and origin.source is Source.UPSTREAM and old[4] != Source.UPSTREAM:
        expires_s = old[2]
        if expires_s is None or expires_s > transaction.wall_s:
            return
    size = size_of(entry.value, entry.label)
    growth = size - (size_of(old[0], old[1]) if old else 0)
    if growth > 0 and not transaction.room_for(growth):
        raise StorageFull("the quota is used up; nothing was stored")
    same = old is not None and (old[0], old[2]) == (entry.value, entry.expires_at_s)
    seq = old[3] if same else transaction.next_seq()
    values = (entry.value, entry.label, transaction.wall_s, entry.expires_at_s)
    came = (int(origin.source), origin.origin)
    execute(_UPSERT, (kind, instance, name, *values, *came, transaction.now_ms, seq))
    if not same:
        transaction.log(seq, kind, instance, name, size, origin)
    transaction.totals.entries += old is None
    transaction.totals.size_bytes += growth


def touch(connection: apsw.Connection, touched: dict[int, int]) -> None:
    """Write access times by row id."""
    connection.executemany(
        "UPDATE entry SET accessed = ?2 WHERE id = ?1 AND accessed < ?2", touched.items()
    )


def eviction_candidates(
    connection: apsw.Connection, before_ms: int, limit: int
) -> list[tuple[int, int, int]]:
    """Return (accessed, size, row id) of entries not accessed since before_ms, oldest first."""
    rows: Any = connection.execute(
        "SELECT accessed, length(value) + length(CAST(label AS BLOB)), id FROM entry "
        "WHERE accessed < ? ORDER BY accessed LIMIT ?",
        (before_ms, limit),
    ).fetchall()
    return list(rows)


def delete(transaction: Transaction, ids: Sequence[int], before_ms: int) -> tuple[int, int]:
    """Delete entries not accessed since before_ms; return how many, and their bytes."""
    count = size = 0
    for row_id in ids:
        rows: Any = transaction.connection.execute(
            "DELETE FROM entry WHERE id = ? AND accessed < ? RETURNING value, label",
            (row_id, before_ms),
        ).fetchall()
        for value, label in rows:
            count += 1
            size += size_of(value, label)
    transaction.totals.entries -= count
    transaction.totals.size_bytes -= size
    return count, size
