"""Reading and trimming the change log; Transaction.log appends to it."""

from __future__ import annotations

from typing import Any

import apsw

from federation.core.index import EntryKey, EntryKind
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.replication_log import LogRow, LogSlice
from federation.storage.catalogue import instances
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import BLOB, Transaction, read_totals

_READ = (
    f"SELECT seq, kind, {instances.NAME}, name, size, stored, "  # noqa: S608 - constants
    "source, via, origin, total FROM log "
    "WHERE seq > ? ORDER BY seq LIMIT ?"
)
_SOURCE = {source.value: source for source in Source}  # calling an enum is slow


def read(connection: apsw.Connection, after: int, limit: int) -> LogSlice:
    """Return up to limit rows with seq > after, from one snapshot.

    The slice is not whole if its first row is not after + 1 (rows were trimmed), or if after is
    beyond the log's end (the reader's position comes from another log).
    """
    with connection:
        rows: Any = connection.execute(_READ, (after, limit)).fetchall()
        if rows:
            is_whole = rows[0][0] == after + 1
        else:
            # Without rows only the log's end tells a reader that is up to date from one of another
            # log.
            is_whole = limit == 0 or after == read_totals(connection).seq
    return LogSlice([_log_row(row) for row in rows], is_whole)


@of_a_row
def _log_row(row: tuple[Any, ...]) -> LogRow:
    seq, kind, instance, name, size, stored, source, via, origin, total = row
    is_blob = kind == BLOB
    return LogRow(
        seq,
        digest_of_key(name, size) if is_blob else None,
        None if is_blob else EntryKey(EntryKind(kind), instance, name),
        size,
        stored,
        _SOURCE[source],
        tuple(via.split(",")) if via else (),
        origin,
        total,
    )


def provenance(connection: apsw.Connection, seq: int) -> Provenance:
    """Return where the object of a row came from; a client, if the row was trimmed."""
    row: Any = connection.execute(
        "SELECT source, via, origin FROM log WHERE seq = ?", (seq,)
    ).fetchone()
    return FROM_CLIENT if row is None else _provenance(row)


@of_a_row
def _provenance(row: tuple[Any, ...]) -> Provenance:
    source, via, origin = row
    return Provenance(_SOURCE[source], tuple(via.split(",")) if via else (), origin)


def total_bytes(connection: apsw.Connection, seq: int) -> int:
    """See ReplicationLog. Rows from before schema version 2 count for nothing."""
    row: Any = connection.execute(
        "SELECT total FROM log WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (seq,)
    ).fetchone()
    if row is None:
        # All rows up to there were trimmed: what the first kept row had before it is their sum.
        row = connection.execute("SELECT total - size FROM log ORDER BY seq LIMIT 1").fetchone()
    return _total(row) if row else 0


@of_a_row
def _total(row: tuple[Any, ...]) -> int:
    return max(0, int(row[0]))


def reaches_back_to(connection: apsw.Connection, seq: int) -> bool:
    """Return whether the log still has a row with this number or a smaller one."""
    row = connection.execute("SELECT 1 FROM log WHERE seq <= ? LIMIT 1", (seq,)).fetchone()
    return row is not None


def trim(transaction: Transaction, last_gone: int, limit: int) -> int:
    """Remove up to limit of the oldest rows, none after last_gone; return how many."""
    transaction.connection.execute(
        "DELETE FROM log WHERE seq IN (SELECT seq FROM log WHERE seq <= ? ORDER BY seq LIMIT ?)",
        (last_gone, limit),
    )
    return transaction.connection.changes()
