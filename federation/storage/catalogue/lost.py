"""Queries and updates of lost blobs: set aside as damaged, and not back since."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import apsw

from federation.core.digest import Digest
from federation.core.lost_blobs import Attempt, LostBlob, LostSlice
from federation.core.provenance import Source
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import change_log
from federation.storage.catalogue.blobs import BlobRow, digest_of_key, key_of, keys_of
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import Transaction

KEPT_MAX = 10_000  # rows; those that are back go first, then the oldest

# A blob that came back without being asked for counts as back before note_back has recorded it.
# due and not back, as it has an index: rows of blobs that are back are not read once a second.
_IS_LOST = "due IS NOT NULL AND NOT EXISTS (SELECT 1 FROM blob WHERE blob.key = lost.key)"
_ADD = (
    "INSERT OR REPLACE INTO lost (key, size, source, reason, found, due) VALUES (?, ?, ?, ?, ?, 0)"
)
_TRIM = (
    "DELETE FROM lost WHERE key IN "
    "(SELECT key FROM lost ORDER BY back IS NOT NULL, found DESC LIMIT -1 OFFSET ?)"
)
# A try in the future, by a clock that was set back, holds nothing up.
_DUE = (
    "SELECT key, size, source, found, tries FROM lost WHERE due <= ?1 OR due > 0 AND tried > ?1 "
    "ORDER BY due LIMIT ?2"
)
_PUT_OFF = (
    "UPDATE lost SET tries = tries + 1, tried = ?2, due = ?3, note = ?4 "
    "WHERE key = ?1 AND back IS NULL"
)
_BACK = (
    "UPDATE lost SET back = ?2, origin = ?3, due = NULL WHERE key = ?1 AND back IS NULL "
    "RETURNING source"
)


def add(transaction: Transaction, row: BlobRow, reason: str) -> None:
    """Record that a blob is lost, and is due at once."""
    execute = transaction.connection.execute
    execute(_ADD, (row.key, row.size_bytes, row.source, reason, transaction.wall_s))
    # Counted for each, which is rare: the breaker stops at a hundred in ten minutes.
    if _rows(transaction.connection) > KEPT_MAX:
        execute(_TRIM, (KEPT_MAX,))


def due(connection: apsw.Connection, now_s: float, limit: int) -> LostSlice:
    """See federation.core.lost_blobs.LostBlobs."""
    rows: Any = connection.execute(_DUE, (now_s, limit)).fetchall()
    return LostSlice([_lost(row) for row in rows], count(connection))


def count(connection: apsw.Connection) -> int:
    """Return how many blobs are lost now."""
    row: Any = connection.execute(
        f"SELECT count(*) FROM lost WHERE {_IS_LOST}"  # noqa: S608 - a constant
    ).fetchone()
    return int(row[0])


def _rows(connection: apsw.Connection) -> int:
    row: Any = connection.execute("SELECT count(*) FROM lost").fetchone()
    return int(row[0])


@of_a_row
def _lost(row: tuple[Any, ...]) -> LostBlob:
    key, size_bytes, source, found_s, tries = row
    return LostBlob(digest_of_key(key, size_bytes), Source(source), float(found_s), int(tries))


def put_off(transaction: Transaction, attempts: Sequence[Attempt]) -> None:
    """See federation.core.lost_blobs.LostBlobs."""
    put = transaction.connection.executemany
    now_s = transaction.wall_s
    again = [each for each in attempts if each.again_at_s is not None]
    put(_PUT_OFF, ((key_of(each.digest), now_s, each.again_at_s, each.reason) for each in again))
    forget(transaction, [key_of(each.digest) for each in attempts if each.again_at_s is None])


def note_back(transaction: Transaction, digests: Collection[Digest]) -> dict[Digest, str]:
    """See federation.core.lost_blobs.LostBlobs. A blob that is not held is left as it was."""
    connection = transaction.connection
    held = catalogue.look_up(connection, keys_of(digests))
    origins = {}
    for digest in digests:
        row = held.get(key_of(digest))
        if row is None:
            continue
        came = change_log.provenance(connection, row.seq)
        back: Any = connection.execute(_BACK, (row.key, transaction.wall_s, came.origin)).fetchone()
        if back is None:
            continue
        origins[digest] = came.origin
        # It counts as received again, or eviction would take it first and peers without it not get
        # it: see decisions, "Damaged blobs are healed by one process".
        if _source(back) is not Source.UPSTREAM:
            catalogue.renew(transaction, row, came._replace(source=_source(back)))
    return origins


@of_a_row
def _source(row: tuple[Any, ...]) -> Source:
    return Source(row[0])


def forget(transaction: Transaction, keys: Sequence[bytes]) -> None:
    """Stop asking for these blobs, and forget that they were lost."""
    transaction.connection.executemany("DELETE FROM lost WHERE key = ?", ((key,) for key in keys))


def shown(connection: apsw.Connection, limit: int) -> tuple[list[Any], list[Any], int]:
    """Return the newest lost blobs, the newest that are back, and how many are back.

    Lost: key, size, reason, found, tries, tried, note. Back: key, size, reason, found, back,
    origin. Times are wall clock seconds; tried 0: never.
    """
    lost: Any = connection.execute(
        "SELECT key, size, reason, found, tries, tried, note FROM lost "  # noqa: S608 - a constant
        f"WHERE {_IS_LOST} ORDER BY found DESC LIMIT ?",
        (limit,),
    ).fetchall()
    back: Any = connection.execute(
        "SELECT key, size, reason, found, back, origin FROM lost WHERE back IS NOT NULL "
        "ORDER BY back DESC LIMIT ?",
        (limit,),
    ).fetchall()
    number: Any = connection.execute("SELECT count(*) FROM lost WHERE back IS NOT NULL").fetchone()
    return lost, back, int(number[0])
