"""Pages through everything that is held, roughly in order of last use, the most recent first.

The walk goes down by time of last use. An object that is used meanwhile moves up past the walk's
position, and would be missed. So at the bottom the walk turns and goes up once, starting some time
before the moment it began: every object it missed has a later time of use. That margin is longer
than an access time may wait to be written. An object that a peer sends meanwhile with an older time
of use has a row in the change log.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import apsw

from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Source
from federation.core.replication_log import Page
from federation.storage.catalogue import instances
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.catalogue.entries import COLUMNS, entry_of
from federation.storage.catalogue.schema import of_a_row
from federation.storage.walk_position import WalkPosition

_WRITTEN_WITHIN_MS = 5 * 60_000
_PAGE_BYTES = 8 * 2**20  # values of entries in one page
_FIRST: dict[str, bytes | int] = {"blob": b"", "entry": 0}  # the name before all others

_BLOBS = "SELECT used, key, size, source FROM blob WHERE {} AND marked = 0 AND (used, key) "
_ENTRIES = (
    f"SELECT used, id, kind, {instances.NAME}, name, {COLUMNS} "  # noqa: S608 - constants
    "FROM entry WHERE {} AND (used, id) "
)
_APART = ("kept = 0", "kept > 0")  # each has an index of its own
_DOWN = {
    "blob": _BLOBS + "< (?, ?) ORDER BY used DESC, key DESC LIMIT ?",
    "entry": _ENTRIES + "< (?, ?) ORDER BY used DESC, id DESC LIMIT ?",
}
_UP = {
    "blob": _BLOBS + "> (?, ?) ORDER BY used, key LIMIT ?",
    "entry": _ENTRIES + "> (?, ?) ORDER BY used, id LIMIT ?",
}


def blobs(connection: apsw.Connection, position: str | None, limit: int, now_ms: int) -> Page:
    """See federation.core.replication_log.ReplicationLog."""
    rows, after = _page(connection, "blob", position, limit, now_ms)
    held = [_blob(row) for row in rows]
    pulled = frozenset(digest for digest, source, _ in held if source == Source.UPSTREAM)
    unused = [max(0, now_ms - used_ms) / 1000 for _, _, used_ms in held]
    return Page([digest for digest, _, _ in held], [], after, pulled, unused)


@of_a_row
def _blob(row: Sequence[Any]) -> tuple[Digest, Source, int]:
    used, key, size, source = row
    return digest_of_key(key, size), Source(source), int(used)


def entries(connection: apsw.Connection, position: str | None, limit: int, now_ms: int) -> Page:
    """See ReplicationLog. A page with long values has fewer entries."""
    rows, after = _page(connection, "entry", position, limit, now_ms)
    held = [_entry(row) for row in rows]
    unused = [max(0, now_ms - used_ms) / 1000 for _, used_ms in held]
    return Page([], [entry for entry, _ in held], after, unused_s=unused)


@of_a_row
def _entry(row: Sequence[Any]) -> tuple[Entry, int]:
    used, _, kind, instance, name, *columns = row
    return entry_of(EntryKey(EntryKind(kind), instance, name), columns), int(used)


def _page(
    connection: apsw.Connection, table: str, position: str | None, limit: int, now_ms: int
) -> tuple[list[Any], str | None]:
    at = WalkPosition.parse(position, _FIRST[table], now_ms)
    statement = (_UP if at.up else _DOWN)[table]
    # Two cursors that are merged: eviction's indexes leave out what pins keep.
    found: list[Any] = [
        connection.execute(statement.format(part), (at.at, at.name, limit)) for part in _APART
    ]
    in_order = heapq.merge(*found, key=lambda row: row[:2], reverse=not at.up)
    rows = list(_until_full(islice(in_order, limit)))
    if rows:
        return rows, _position_after((at, *rows[-1]))
    if at.up:
        return [], None
    return [], str(at.turned(_FIRST[table], _WRITTEN_WITHIN_MS))


@of_a_row
def _position_after(row: Sequence[Any]) -> str:
    at, accessed, name = row[:3]
    return str(at._replace(at=int(accessed), name=name))


@of_a_row
def _value_bytes(row: Sequence[Any]) -> int:
    return len(row[5])


def _until_full(rows: Any) -> Iterator[Any]:
    size = 0
    for row in rows:
        yield row
        # Rows of blobs have four columns, and no value.
        size += _value_bytes(row) if len(row) > 4 else 0
        if size >= _PAGE_BYTES:
            return
