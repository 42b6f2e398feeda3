"""Queries and updates of index entries (action results and assets)."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.errors import StorageFull
from federation.core.index import LIKE_MAX, Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import EntryHead
from federation.storage.catalogue import instances, keepings, purges
from federation.storage.catalogue.blobs import used_at
from federation.storage.catalogue.footprint import LOG_ROW_BYTES, cost_of_entry
from federation.storage.catalogue.hlc import Held, Verdict, date, is_dated
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import ENTRY_CHANGES, Transaction

COLUMNS = "value, label, stored, expires, source, origin, ticks, node"  # as entry_of takes them
_GET = (
    f"SELECT id, used, seq, (SELECT value FROM meta WHERE name = '{ENTRY_CHANGES}'), "  # noqa: S608
    f"{COLUMNS} FROM entry WHERE kind = ? AND instance = {instances.ID} AND name = ?"
)
_GET_LIKE = (
    f"SELECT name, {COLUMNS} FROM entry "  # noqa: S608 - constants
    f"WHERE kind = ? AND instance = {instances.ID} AND name BETWEEN ? AND ? LIMIT ?"
)
_HIGHEST = b"\xff" * 9  # above whatever follows the hash in the name of an action result
_SMALL_BYTES = 2**14
_SIZE = (
    "SELECT length(value) "  # noqa: S608 - constants
    f"FROM entry WHERE kind = ? AND instance = {instances.ID} AND name = ?"
)
_HAS = f"SELECT 1 FROM entry WHERE kind = ? AND instance = {instances.ID} AND name = ?"  # noqa: S608
_HEAD = (
    "SELECT seq, label, length(value), expires, source "  # noqa: S608 - constants
    f"FROM entry WHERE kind = ? AND instance = {instances.ID} AND name = ?"
)
_UPSERT = (
    "INSERT INTO entry (kind, instance, name, value, label, stored, expires, source, origin, "
    "used, seq, ticks, node) "
    "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) "
    "ON CONFLICT (kind, instance, name) DO UPDATE SET value = ?4, label = ?5, stored = ?6, "
    "expires = ?7, source = ?8, origin = ?9, used = ?10, seq = ?11, ticks = ?12, node = ?13"
)


class EntryRow(NamedTuple):
    """A row of the table entry: the entry, its row id, last use (store ms) and log row.

    changes: see EntryChanges; when the row was read.
    """

    id: int
    used_ms: int
    seq: int
    changes: int
    entry: Entry


def size_of(value: bytes, label: str) -> int:
    """Return the size of an entry in bytes, as the totals count it."""
    return len(value) + len(label.encode())


def cost_of(entry: Entry) -> int:
    """Return how many bytes of the quota an entry takes."""
    return cost_of_entry(size_of(entry.value, entry.label))


def get(connection: apsw.Connection, keys: Sequence[EntryKey]) -> list[EntryRow | None]:
    """Return the row of each key, None where there is no such entry."""
    return [_row(connection, key) for key in keys]


def get_small(connection: apsw.Connection, keys: Sequence[EntryKey]) -> list[EntryRow | None]:
    """Do what get() does in bounded time. Raises BlockingIOError for a larger value."""
    return [_row(connection, key) if _is_small(connection, key) else None for key in keys]


def has_any(connection: apsw.Connection, keys: Sequence[EntryKey]) -> bool:
    """Return whether there is an entry under any of the keys, of which there are a few.

    One statement, and so one snapshot: taking one is most of the CPU of a look-up.
    """
    query = " UNION ALL ".join([_HAS] * len(keys)) + " LIMIT 1"
    values = [value for kind, instance, name in keys for value in (int(kind), instance, name)]
    return connection.execute(query, values).fetchone() is not None


def _is_small(connection: apsw.Connection, key: EntryKey) -> bool:
    """Return whether there is such an entry. Raises BlockingIOError for a larger value."""
    row: Any = connection.execute(_SIZE, (int(key.kind), key.instance, key.name)).fetchone()
    if row is not None and row[0] > _SMALL_BYTES:
        raise BlockingIOError(errno.EAGAIN, "a large value")
    return row is not None


def by_id(connection: apsw.Connection, row_id: int) -> Entry | None:
    """Return the entry of a row; None: there is none."""
    row: Any = connection.execute(
        f"SELECT kind, {instances.NAME}, name, {COLUMNS} FROM entry WHERE id = ?",  # noqa: S608
        (row_id,),
    ).fetchone()
    return None if row is None else _whole_row(row)


@of_a_row
def _whole_row(row: tuple[Any, ...]) -> Entry:
    kind, instance, name, *columns = row
    return entry_of(EntryKey(EntryKind(kind), instance, name), columns)


def _row(connection: apsw.Connection, key: EntryKey) -> EntryRow | None:
    row: Any = connection.execute(_GET, (int(key.kind), key.instance, key.name)).fetchone()
    if row is None:
        return None
    return _entry_row((key, *row))


def get_like(connection: apsw.Connection, keys: Sequence[EntryKey]) -> list[Entry]:
    """Return the entries whose names begin with the name of one of the keys, newest first."""
    found: list[Entry] = []
    for kind, instance, name in keys:
        wanted = (int(kind), instance, name, name + _HIGHEST, LIKE_MAX)
        rows: Any = connection.execute(_GET_LIKE, wanted)
        found += [_like_row((kind, instance, *row)) for row in rows]
    # By stamp, as everywhere a value wins; entries of upstreams have none, so the date decides
    # there.
    return sorted(found, key=lambda entry: (entry.stamp, entry.stored_at_s), reverse=True)


@of_a_row
def _like_row(row: tuple[Any, ...]) -> Entry:
    kind, instance, name, *columns = row
    return entry_of(EntryKey(EntryKind(kind), instance, name), columns)


def heads(connection: apsw.Connection, keys: Sequence[EntryKey]) -> list[EntryHead | None]:
    """Return each key's entry without its value, None where there is no such entry."""
    return [_head(connection, key) for key in keys]


def _head(connection: apsw.Connection, key: EntryKey) -> EntryHead | None:
    row: Any = connection.execute(_HEAD, (int(key.kind), key.instance, key.name)).fetchone()
    return None if row is None else _entry_head((key, *row))


@of_a_row
def _entry_head(row: tuple[Any, ...]) -> EntryHead:
    key, seq, label, value_bytes, expires_s, source = row
    return EntryHead(seq, key, label, value_bytes, expires_s, Source(source))


@of_a_row
def _entry_row(row: tuple[Any, ...]) -> EntryRow:
    key, row_id, used, seq, changes, *columns = row
    return EntryRow(row_id, used, seq, changes or 0, entry_of(key, columns))


def entry_of(key: EntryKey, columns: Sequence[Any]) -> Entry:
    """Make an entry of its key and the values of COLUMNS."""
    value, label, stored_s, expires_s, source, origin, ticks, node = columns
    given = Stamp(ticks, node)
    return Entry(key, value, label, stored_s, expires_s, Source(source), origin, given)


def put(transaction: Transaction, entries: Sequence[Entry], origin: Provenance) -> None:
    """Store entries as Index.put describes. An unchanged entry is renewed without a log row.

    Raises StorageFull, InvalidRequest (a stamp too far in the future); the entry at fault is
    unchanged then.
    """
    for entry in entries:
        _put(transaction, entry, origin)


def put_over(
    transaction: Transaction, entry: Entry, held: Entry | None, origin: Provenance
) -> bool:
    """Store an entry as Index.put_over describes. Raises as put() does."""
    old = _row(transaction.connection, entry.key)
    # By value and stamp: the same value may have been purged and pushed again meanwhile.
    if _identity(old and old.entry) != _identity(held):
        return False
    _put(transaction, entry, origin)
    return True


def _identity(entry: Entry | None) -> tuple[bytes, Stamp] | None:
    """Return what tells a value from an earlier or later one under its key."""
    return None if entry is None else (entry.value, entry.stamp)


def _put(transaction: Transaction, entry: Entry, origin: Provenance) -> None:
    old = _row(transaction.connection, entry.key)
    held = old and Held(old.entry.value, old.entry.expires_at_s, old.entry.source, old.entry.stamp)
    ticks, node_id, wall_s = transaction.totals.ticks, transaction.node_id, transaction.wall_s
    # Looked up under the write lock: a purge that was committed a moment ago counts.
    purged = purges.stamp_of(transaction.connection, entry.key)
    dated = date(held, entry, origin.source, ticks, node_id, wall_s, transaction.drift_s, purged)
    transaction.totals.ticks = dated.ticks
    if dated.verdict is Verdict.PURGED:
        purges.note_used(transaction.connection, [purges.name_of(entry.key)], transaction.now_ms)
    elif dated.verdict is Verdict.TAKE:
        _store(transaction, entry._replace(stamp=dated.stamp), origin, old)
    elif old and dated.verdict is Verdict.RENEW:
        if is_dated(entry, origin.source):
            used_ms = used_at(transaction.now_ms, origin)
            touch(transaction.connection, {old.id: used_ms})
        else:
            # A client that pushes the same again renews its date, too (Remote Asset's
            # oldest_content_accepted); under the old log number, since peers have the value.
            _write(transaction, entry._replace(stamp=dated.stamp), origin, old.seq, old)


def _store(
    transaction: Transaction, entry: Entry, origin: Provenance, old: EntryRow | None
) -> None:
    growth = cost_of(entry) - cost_of(old.entry) if old else cost_of(entry)
    # A value that shrinks is taken even when the quota is used up.
    if growth > 0 and not transaction.room_for(growth):
        raise StorageFull("the quota is used up; nothing was stored")
    seq = transaction.next_seq()
    _write(transaction, entry, origin, seq, old)
    kind, instance, name = entry.key
    size = size_of(entry.value, entry.label)
    transaction.log(seq, int(kind), instances.intern(transaction, instance), name, size, origin)
    transaction.grown_bytes += growth if old is None else growth + LOG_ROW_BYTES


def _write(
    transaction: Transaction, entry: Entry, origin: Provenance, seq: int, old: EntryRow | None
) -> None:
    """Write the row and update the totals: even a renewal may change the length of the label."""
    kind, instance, name = entry.key
    values = (entry.value, entry.label, transaction.wall_s, entry.expires_at_s)
    came = (int(origin.source), origin.origin)
    of = instances.intern(transaction, instance)
    used_ms = used_at(transaction.now_ms, origin)
    row = (int(kind), of, name, *values, *came, used_ms, seq, *entry.stamp)
    transaction.connection.execute(_UPSERT, row)
    transaction.changed_entries.append(entry.key)
    transaction.totals.entries += old is None
    transaction.totals.size_bytes += size_of(entry.value, entry.label)
    if old:
        transaction.totals.size_bytes -= size_of(old.entry.value, old.entry.label)


def restore(transaction: Transaction, entry: Entry) -> None:
    """Store an entry with its own stamp in a catalogue that is being rebuilt."""
    transaction.observe(entry.stamp)
    old = _row(transaction.connection, entry.key)
    _store(transaction, entry, Provenance(entry.source, origin=entry.origin), old)


def remove(transaction: Transaction, old: EntryRow) -> None:
    """Delete an entry."""
    key = old.entry.key
    row: Any = transaction.connection.execute(
        "DELETE FROM entry WHERE id = ? RETURNING kept", (old.id,)
    ).fetchone()
    if row is not None and row[0]:
        keepings.entry_gone(transaction, row[0], cost_of(old.entry))
    keepings.end_of_entries(transaction, [old.id])
    transaction.changed_entries.append(key)
    transaction.totals.entries -= 1
    transaction.totals.size_bytes -= size_of(old.entry.value, old.entry.label)
    transaction.grown_bytes -= cost_of(old.entry)


def touch(connection: apsw.Connection, touched: dict[int, int]) -> None:
    """Write access times by row id."""
    connection.executemany(
        "UPDATE entry SET used = ?2 WHERE id = ?1 AND used < ?2", touched.items()
    )
