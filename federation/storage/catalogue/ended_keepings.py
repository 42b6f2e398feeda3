"""Queries and updates of keepings without a pin: what they keep is given back some time later.

They are what an ended pin or a replaced entry has left, and what a rebuilt catalogue keeps until
all that pins name was looked for.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from typing import Any

import apsw

from federation.storage.catalogue import footprint, keepings
from federation.storage.catalogue.transaction import Transaction

_KEPT_IN_ORDER = (
    "SELECT used, key FROM blob WHERE kept > 0 AND (used, key) > (?, ?) ORDER BY used, key LIMIT ?"
)


def ended(connection: apsw.Connection) -> list[int]:
    """Return the keepings that keep something for no pin any more."""
    rows: Any = connection.execute("SELECT id FROM keeping WHERE pin IS NULL").fetchall()
    return [keeping_id for (keeping_id,) in rows]


def is_return_due(connection: apsw.Connection, now_ms: int) -> bool:
    """Return whether any of ended() is to be given back now."""
    row = connection.execute(
        "SELECT 1 FROM keeping INDEXED BY keeping_by_due "  # there may be many that are due later
        "WHERE due <= ? AND pin IS NULL LIMIT 1",
        (now_ms,),
    ).fetchone()
    return row is not None


def give_back(
    transaction: Transaction, ended_ids: Collection[int], after: tuple[int, bytes], limit: int
) -> tuple[int, bytes] | None:
    """Let eviction have what these keep, of the next `limit` kept blobs in order of last use.

    after: (used, key) of the last one of the call before. Returns the same of this one, None if
    there are no more.
    """
    rows: Any = transaction.connection.execute(_KEPT_IN_ORDER, (*after, limit)).fetchall()
    if not rows:
        return None
    transaction.connection.execute(
        "UPDATE blob SET kept = 0 WHERE key IN (SELECT value FROM carray(?1)) "
        "AND kept IN (SELECT value FROM carray(?2))",
        (apsw.carray(tuple(key for _, key in rows)), apsw.carray(array("q", ended_ids))),
    )
    return rows[-1][0], rows[-1][1]


def hold_blob(transaction: Transaction, key: bytes) -> None:
    """Keep a blob of a rebuilt catalogue until it was found out what pins name."""
    connection = transaction.connection
    row: Any = connection.execute(
        f"UPDATE blob SET kept = ? WHERE key = ? AND kept = 0 RETURNING {footprint.COST}",  # noqa: S608
        (_without_pin(transaction), key),
    ).fetchone()
    if row is not None:
        keepings.add(transaction, _without_pin(transaction), row[0], 1)


def hold_entries(transaction: Transaction, row_ids: Collection[int]) -> None:
    """Keep entries likewise."""
    for row_id in row_ids:
        row: Any = transaction.connection.execute(
            "UPDATE entry SET kept = ? WHERE id = ? AND kept = 0 "
            "RETURNING length(value) + length(CAST(label AS BLOB))",
            (_without_pin(transaction), row_id),
        ).fetchone()
        if row is not None:
            keepings.add(transaction, _without_pin(transaction), footprint.cost_of_entry(row[0]), 0)


def _without_pin(transaction: Transaction) -> int:
    """Return a keeping that ends as soon as pins were looked for."""
    connection = transaction.connection
    found = ended(connection)
    if found:
        return found[0]
    connection.execute("INSERT INTO keeping (entry, seq) VALUES (0, 0)")
    return connection.last_insert_rowid()


def forget(transaction: Transaction, ended_ids: Collection[int]) -> None:
    """Remove keepings whose blobs were given back, and let eviction have their entries."""
    connection = transaction.connection
    connection.execute(
        "UPDATE entry SET kept = 0 WHERE kept > 0 AND kept IN (SELECT value FROM carray(?))",
        (apsw.carray(array("q", ended_ids)),),
    )
    freed = 0
    for keeping_id in ended_ids:
        row: Any = connection.execute(
            "DELETE FROM keeping WHERE id = ? AND pin IS NULL RETURNING bytes", (keeping_id,)
        ).fetchone()
        if row is not None:
            freed += row[0]
    keepings.add_to_total(transaction, -freed)
