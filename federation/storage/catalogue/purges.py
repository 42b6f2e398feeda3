"""Queries and updates of purge records: federation.core.purges says what they are.

A record is used when it kept something out, or was asked about: it is kept for some time after
that. Of questions the time is written at most once an hour.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import apsw

from federation.core.digest import Digest
from federation.core.errors import StorageFull
from federation.core.index import EntryKey, EntryKind, Stamp
from federation.core.purges import PURGES_MAX, Purge, Purgeable
from federation.storage.catalogue import instances
from federation.storage.catalogue.blobs import digest_of_key, key_of
from federation.storage.catalogue.hlc import ticks_at
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import (
    BLOB,
    Transaction,
    get_meta,
    set_meta,
)

USED_EVERY_MS = 3_600_000
REDATED_AT_ONCE = 200
_SEQ = "purge_seq"  # name in the table meta: the number of the newest change of a record
_COUNT = "purge_count"  # likewise: how many records there are
_COLUMNS = f"kind, {instances.NAME}, name, size, label, by, at, allowed, ticks, node"
_PAGE = f"SELECT seq, {_COLUMNS} FROM purge WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
_ONE = (
    f"SELECT {_COLUMNS} FROM purge "  # noqa: S608 - constants
    f"WHERE kind = ? AND instance = {instances.ID} AND name = ?"
)
_UPSERT = (
    "INSERT INTO purge (kind, instance, name, size, label, by, at, allowed, ticks, node, used, seq)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) "
    "ON CONFLICT (kind, instance, name) DO UPDATE SET size = ?4, label = ?5, by = ?6, at = ?7, "
    "allowed = ?8, ticks = ?9, node = ?10, used = ?11, seq = ?12"
)
_BLOBS = (
    "SELECT name, used FROM carray(?) AS wanted CROSS JOIN purge "
    "ON kind = 0 AND instance = 0 AND name = wanted.value WHERE NOT allowed"
)
_BLOBS_LIKE = (
    "SELECT wanted.value, name, used FROM carray(?) AS wanted CROSS JOIN purge ON kind = 0 "
    "AND instance = 0 AND name BETWEEN wanted.value AND CAST(wanted.value || ? AS BLOB) "
    "WHERE NOT allowed"
)
_HIGHEST = b"\xff" * 32
# What an upstream gives has no stamp, so a record always wins over it.
_ENTRY = (
    "SELECT purge.used FROM purge LEFT JOIN entry USING (kind, instance, name) "  # noqa: S608
    f"WHERE kind = ? AND instance = {instances.ID} AND name = ? AND (entry.ticks IS NULL OR "
    "(entry.ticks, entry.node) < (purge.ticks, purge.node))"
)
_USED = (
    "UPDATE purge SET used = max(used, ?1) "  # noqa: S608 - constants
    f"WHERE kind = ?2 AND instance = {instances.ID.replace('?', '?3')} AND name = ?4"
)

Name = tuple[int, str, bytes]  # kind as in the change log, instance, name


def name_of(thing: Purgeable) -> Name:
    """Return the name of a blob or entry, as in the change log."""
    if isinstance(thing, Digest):
        return BLOB, "", key_of(thing)
    return int(thing.kind), thing.instance, thing.name


def name_of_key(key: bytes) -> Name:
    """Return the name of the blob with this catalogue key."""
    return BLOB, "", key


def are_any(connection: apsw.Connection) -> bool:
    """Return whether there is any record: nearly always there is none."""
    return connection.execute("SELECT 1 FROM purge LIMIT 1").fetchone() is not None


def count(connection: apsw.Connection) -> int:
    """Return how many records there are."""
    return int(get_meta(connection, _COUNT) or 0)


def get(connection: apsw.Connection, thing: Purgeable) -> Purge | None:
    """Return the record of one name."""
    row: Any = connection.execute(_ONE, name_of(thing)).fetchone()
    return None if row is None else _purge(row)


def unknown_of(connection: apsw.Connection, received: Iterable[Purge]) -> list[Purge]:
    """Return those records that are newer than what is known of their names."""
    known = ((each, get(connection, each.thing)) for each in received)
    return [each for each, old in known if old is None or old.stamp < each.stamp]


def page(connection: apsw.Connection, after: int, limit: int) -> list[tuple[int, Purge]]:
    """Return records with numbers above after, in order, each with its number."""
    rows: Any = connection.execute(_PAGE, (after, limit)).fetchall()
    return [(row[0], _purge(row[1:])) for row in rows]


def labelled(connection: apsw.Connection, label: str, limit: int) -> list[Purge]:
    """Return the records of entries with this label. Reads all records."""
    rows: Any = connection.execute(
        f"SELECT {_COLUMNS} FROM purge WHERE kind > 0 AND label = ? LIMIT ?",  # noqa: S608
        (label, limit),
    ).fetchall()
    return [_purge(row) for row in rows]


@of_a_row
def _purge(row: Sequence[Any]) -> Purge:
    kind, instance, name, size, label, by, at_s, allowed, ticks, node = row
    is_blob = kind == BLOB
    key = None if is_blob else EntryKey(EntryKind(kind), instance, name)
    return Purge(
        key or digest_of_key(name, size), Stamp(ticks, node), label, by, at_s, bool(allowed)
    )


def blobs_among(connection: apsw.Connection, keys: Collection[bytes]) -> dict[bytes, int]:
    """Return the purged ones among catalogue keys, each with the last use of its record."""
    if not keys or not are_any(connection):
        return {}
    return dict(connection.execute(_BLOBS, (apsw.carray(tuple(keys)),)))


def blobs_like(
    connection: apsw.Connection, prefixes: Sequence[bytes]
) -> list[tuple[bytes, bytes, int]]:
    """Return those prefixes of keys that a purged blob has, with its key and last use."""
    if not prefixes or not are_any(connection):
        return []
    rows: Any = connection.execute(_BLOBS_LIKE, (apsw.carray(tuple(prefixes)), _HIGHEST))
    return list(rows)


def entries_among(connection: apsw.Connection, keys: Collection[EntryKey]) -> dict[EntryKey, int]:
    """Return those that are purged and not pushed again, each with the last use of its record."""
    if not are_any(connection):
        return {}
    found: dict[EntryKey, int] = {}
    for key in keys:
        row: Any = connection.execute(_ENTRY, name_of(key)).fetchone()
        if row is not None:
            found[key] = row[0]
    return found


def stamp_of(connection: apsw.Connection, key: EntryKey) -> Stamp | None:
    """Return the stamp of an entry's record; None: there is none."""
    if not are_any(connection):
        return None
    found = get(connection, key)
    return None if found is None else found.stamp


def store(transaction: Transaction, purge: Purge) -> None:
    """Store a record under the next number. Raises StorageFull beyond PURGES_MAX."""
    connection = transaction.connection
    kind, instance, name = name_of(purge.thing)
    # Counted by itself: a count over a million rows would hold the write lock for long.
    if get(connection, purge.thing) is None:
        kept = count(connection)
        if kept >= PURGES_MAX:
            raise StorageFull(f"{kept} purges are remembered; no more fit (storage.purge-keep)")
        set_meta(transaction, _COUNT, kept + 1)
    seq = int(get_meta(connection, _SEQ) or 0) + 1
    set_meta(transaction, _SEQ, seq)
    size = purge.thing.size_bytes if isinstance(purge.thing, Digest) else 0
    of = instances.intern(transaction, instance)
    facts = (purge.label, purge.by, purge.at_s, purge.is_allowed, *purge.stamp)
    connection.execute(_UPSERT, (kind, of, name, size, *facts, transaction.now_ms, seq))


def allow(transaction: Transaction, digests: Iterable[Digest]) -> None:
    """Record that a client pushes purged blobs again."""
    for digest in digests:
        old = get(transaction.connection, digest)
        if old is not None and not old.is_allowed:
            # A record of its own, later than the purge: peers have to hear that the blob is back.
            stamp = transaction.next_stamp(old.stamp.ticks)
            store(transaction, old._replace(stamp=stamp, is_allowed=True))


def bar(
    transaction: Transaction, keys: Collection[bytes], *, is_push: bool
) -> tuple[set[bytes], set[bytes]]:
    """Return which of these keys must not be stored now, and which a push allows again.

    Others than clients bring nothing back: is_push says who sends.
    """
    purged = blobs_among(transaction.connection, keys)
    # A client's push allows the blob again: it does not know of the purge, or does not agree.
    if not purged or is_push:
        return set(), set(purged)
    note_used(transaction.connection, map(name_of_key, purged), transaction.now_ms)
    return set(purged), set()


def note_used(connection: apsw.Connection, names: Iterable[Name], now_ms: int) -> None:
    """Write that records were used (store ms)."""
    connection.executemany(_USED, [(now_ms, *name) for name in names])


def redate(transaction: Transaction) -> int:
    """Give new stamps to some records that are dated too far ahead; return to how many.

    See federation.storage.upkeep.redating: peers would refuse them.
    """
    latest = ticks_at(transaction.wall_s + transaction.drift_s)
    rows: Any = transaction.connection.execute(
        f"SELECT {_COLUMNS} FROM purge WHERE ticks > ? LIMIT ?",  # noqa: S608 - constants
        (latest, REDATED_AT_ONCE),
    ).fetchall()
    for row in rows:
        store(transaction, _purge(row)._replace(stamp=transaction.next_stamp()))
    return len(rows)


def newest_ticks(connection: apsw.Connection) -> int:
    """Return the greatest ticks of any record; 0 if there is none."""
    row: Any = connection.execute("SELECT ifnull(max(ticks), 0) FROM purge").fetchone()
    return int(row[0])


def newest(connection: apsw.Connection) -> int:
    """Return the number of the newest change of a record."""
    return int(get_meta(connection, _SEQ) or 0)


def forget(transaction: Transaction, before_ms: int, told: int, limit: int) -> int:
    """Remove records last used before before_ms (store time) that all peers were told of.

    told: the number up to which they were. Returns how many were removed, at most limit.
    """
    connection = transaction.connection
    connection.execute(
        "DELETE FROM purge WHERE (kind, instance, name) IN "
        "(SELECT kind, instance, name FROM purge WHERE used < ? AND seq <= ? LIMIT ?)",
        (before_ms, told, limit),
    )
    removed = connection.changes()
    if removed:
        set_meta(transaction, _COUNT, count(connection) - removed)
    return removed
