"""Queries and updates for the eviction of blobs.

A mark is a time in the row, so that any process can continue where another one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import apsw

from federation.storage.catalogue import footprint
from federation.storage.catalogue.blobs import COLUMNS, BlobRow, delete
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
) -> list[tuple[int, int, bytes]]:
    """Return (used, cost, key) of live blobs that no pin keeps and no peer waits for.

    The least recently used ones come first. What pins keep is not in the indexes that this reads.
    Only blobs last used in from_ms..before_ms (store ms) and not leased since before_ms. pulled:
    only those that came from upstreams alone; otherwise only the others.
    """
    rows: Any = connection.execute(
        f"SELECT used, {footprint.COST}, key FROM blob "  # noqa: S608 - constants
        f"WHERE kept = 0 AND source {'=' if pulled else '<>'} 1 AND used >= ? AND used < ? "
        "AND leased < ? AND marked = 0 AND seq <= ? ORDER BY used LIMIT ?",
        (from_ms, before_ms, before_ms, holds.pulled if pulled else holds.received, limit),
    ).fetchall()
    return list(rows)


def any_unleased(connection: apsw.Connection, before_ms: int) -> bool:
    """Return whether any live blob that no pin keeps was neither used nor leased since before_ms.

    Whether a peer waits for it does not matter.
    """
    row = connection.execute(
        "SELECT 1 FROM blob WHERE kept = 0 AND used < ?1 AND leased < ?1 AND marked = 0 LIMIT 1",
        (before_ms,),
    ).fetchone()
    return row is not None


def mark(
    transaction: Transaction, candidates: Iterable[tuple[int, bytes]], before_ms: int
) -> list[bytes]:
    """Mark those (used, key) that were not touched since; return the keys marked."""
    marked = []
    # The same time of use as when it was chosen, or it has been used since and is no candidate.
    for used, key in candidates:
        transaction.connection.execute(
            "UPDATE blob SET marked = ? WHERE key = ? AND used = ? AND leased < ? AND marked = 0 "
            "AND kept = 0",
            (max(1, transaction.now_ms), key, used, before_ms),
        )
        if transaction.connection.changes():
            marked.append(key)
    return marked


def unmark_all(transaction: Transaction) -> int:
    """Make every marked blob live again; return how many."""
    transaction.connection.execute("UPDATE blob SET marked = 0 WHERE marked > 0")
    return transaction.connection.changes()


class Marked(NamedTuple):
    """The blobs that are marked and not deleted yet."""

    blobs: int
    cost_bytes: int
    oldest_ms: int  # the earliest mark


def marked(connection: apsw.Connection) -> Marked:
    """Return what is marked now, by whichever process."""
    row: Any = connection.execute(
        f"SELECT count(*), ifnull(sum({footprint.COST}), 0), ifnull(min(marked), 0) "  # noqa: S608
        "FROM blob WHERE marked > 0"
    ).fetchone()
    return Marked(*row)


def delete_marked(
    transaction: Transaction, marked_before_ms: int, before_ms: int, limit: int
) -> list[BlobRow]:
    """Delete up to limit blobs marked until marked_before_ms and not touched since before_ms.

    Returns their rows. A use or lease removes the mark; the times are checked as well, to be safe.
    """
    # The longest marked first, so that none waits behind marks that are made meanwhile.
    rows: Any = transaction.connection.execute(
        f"SELECT {COLUMNS} FROM blob WHERE marked > 0 AND marked <= ? "  # noqa: S608 - constants
        "AND used < ? AND leased < ? AND kept = 0 ORDER BY marked LIMIT ?",
        (marked_before_ms, before_ms, before_ms, limit),
    ).fetchall()
    gone = [BlobRow._make(row) for row in rows]
    for row in gone:
        delete(transaction, row)
    return gone
