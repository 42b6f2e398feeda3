"""The catalogue's questions and changes about index entries (action results and assets)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.errors import StorageFull
from federation.core.store import Entry, EntryKey, Provenance, Source, Stamp
from federation.storage.catalogue.hlc import Held, Verdict, date, is_dated
from federation.storage.catalogue.peer_records import Pins
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import Transaction

COLUMNS = "value, label, stored, expires, source, origin, ticks, node"  # as entry_of takes them
_GET = (
    f"SELECT id, accessed, seq, {COLUMNS} "  # noqa: S608 - constants
    "FROM entry WHERE kind = ? AND instance = ? AND name = ?"
)
_UPSERT = (
    "INSERT INTO entry (kind, instance, name, value, label, stored, expires, source, origin, "
    "accessed, seq, ticks, node) "
    "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) "
    "ON CONFLICT (kind, instance, name) DO UPDATE SET value = ?4, label = ?5, stored = ?6, "
    "expires = ?7, source = ?8, origin = ?9, accessed = ?10, seq = ?11, ticks = ?12, node = ?13"
)


class EntryRow(NamedTuple):
    """A row of the table entry: the entry, and what is kept with it; store milliseconds."""

    id: int
    accessed_ms: int
    seq: int
    entry: Entry


def size_of(value: bytes, label: str) -> int:
    """Return what an entry counts against the quota."""
    return len(value) + len(label.encode())


def get(connection: apsw.Connection, keys: Sequence[EntryKey]) -> list[EntryRow | None]:
    """Return the row of each key, None where there is no such entry."""
    return [_row(connection, key) for key in keys]


def _row(connection: apsw.Connection, key: EntryKey) -> EntryRow | None:
    row: Any = connection.execute(_GET, (int(key.kind), key.instance, key.name)).fetchone()
    if row is None:
        return None
    return _entry_row((key, *row))


@of_a_row
def _entry_row(row: tuple[Any, ...]) -> EntryRow:
    key, row_id, accessed, seq, *columns = row
    return EntryRow(row_id, accessed, seq, entry_of(key, columns))


def entry_of(key: EntryKey, columns: Sequence[Any]) -> Entry:
    """Return the entry whose COLUMNS these are."""
    value, label, stored_s, expires_s, source, origin, ticks, node = columns
    given = Stamp(ticks, node)
    return Entry(key, value, label, stored_s, expires_s, Source(source), origin, given)


def put(transaction: Transaction, entries: Sequence[Entry], origin: Provenance) -> None:
    """Store entries as Index.put says; what stays as it is, is renewed without a log row.

    Raises StorageFull, InvalidRequest (a stamp from the future), before anything of that entry
    changed.
    """
    for entry in entries:
        _put(transaction, entry, origin)


def _put(transaction: Transaction, entry: Entry, origin: Provenance) -> None:
    old = _row(transaction.connection, entry.key)
    held = old and Held(old.entry.value, old.entry.expires_at_s, old.entry.source, old.entry.stamp)
    ticks, node_id, wall_s = transaction.totals.ticks, transaction.node_id, transaction.wall_s
    dated = date(held, entry, origin.source, ticks, node_id, wall_s, transaction.drift_s)
    transaction.totals.ticks = dated.ticks
    if dated.verdict is Verdict.TAKE:
        _take(transaction, entry._replace(stamp=dated.stamp), origin, old)
    elif old and dated.verdict is Verdict.RENEW:
        if is_dated(entry, origin.source):
            touch(transaction.connection, {old.id: transaction.now_ms})
        else:
            _write(transaction, entry._replace(stamp=dated.stamp), origin, old.seq, old)


def _take(transaction: Transaction, entry: Entry, origin: Provenance, old: EntryRow | None) -> None:
    size = size_of(entry.value, entry.label)
    growth = size - (size_of(old.entry.value, old.entry.label) if old else 0)
    if growth > 0 and not transaction.room_for(growth):
        raise StorageFull("the quota is used up; nothing was stored")
    seq = transaction.next_seq()
    _write(transaction, entry, origin, seq, old)
    kind, instance, name = entry.key
    transaction.log(seq, int(kind), instance, name, size, origin)


def _write(
    transaction: Transaction, entry: Entry, origin: Provenance, seq: int, old: EntryRow | None
) -> None:
    """Write the row and count it; its label may have another length also when it is renewed."""
    kind, instance, name = entry.key
    values = (entry.value, entry.label, transaction.wall_s, entry.expires_at_s)
    came = (int(origin.source), origin.origin)
    row = (int(kind), instance, name, *values, *came, transaction.now_ms, seq, *entry.stamp)
    transaction.connection.execute(_UPSERT, row)
    transaction.totals.entries += old is None
    transaction.totals.size_bytes += size_of(entry.value, entry.label)
    if old:
        transaction.totals.size_bytes -= size_of(old.entry.value, old.entry.label)


def restore(transaction: Transaction, entry: Entry) -> None:
    """Store an entry with the stamp it has, for a catalogue made anew."""
    transaction.observe(entry.stamp)
    old = _row(transaction.connection, entry.key)
    _take(transaction, entry, Provenance(entry.source, origin=entry.origin), old)


def touch(connection: apsw.Connection, touched: dict[int, int]) -> None:
    """Write access times by row id."""
    connection.executemany(
        "UPDATE entry SET accessed = ?2 WHERE id = ?1 AND accessed < ?2", touched.items()
    )


def eviction_candidates(
    connection: apsw.Connection, from_ms: int, before_ms: int, pins: Pins, limit: int
) -> list[tuple[int, int, int]]:
    """Return (accessed, size, row id) of entries that no peer waits for, oldest first.

    Last accessed in from_ms..before_ms.
    """
    rows: Any = connection.execute(
        "SELECT accessed, length(value) + length(CAST(label AS BLOB)), id FROM entry "
        "WHERE accessed >= ? AND accessed < ? AND (seq <= ? OR seq <= ? AND source = 1) "
        "ORDER BY accessed LIMIT ?",
        (from_ms, before_ms, *pins, limit),
    ).fetchall()
    return list(rows)


def any_unleased(connection: apsw.Connection, before_ms: int) -> bool:
    """Whether an entry was not accessed since before_ms, whoever waits for it."""
    row = connection.execute(
        "SELECT 1 FROM entry WHERE accessed < ? LIMIT 1", (before_ms,)
    ).fetchone()
    return row is not None


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
