"""Queries and updates of keepings without a pin: what they keep is given back some time later.

They are what an ended pin or a replaced entry has left, and what a rebuilt catalogue keeps until
all that pins name was looked for.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Any

import apsw

from federation.storage.catalogue import footprint, keepings
from federation.storage.catalogue.transaction import Transaction

Place = tuple[int, bytes | int]  # when what is kept was last used, and its key or row id

_KEPT = {"blob": "key", "entry": "id"}
FIRST: dict[str, Place] = {"blob": (0, b""), "entry": (0, 0)}  # where give_back() begins


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
    transaction: Transaction, table: str, ended_ids: Set[int], after: Place, limit: int
) -> Place | None:
    """Let eviction have what these keep, of the next `limit` kept rows in order of last use.

    table: "blob" or "entry". after: the last row of the call before, or FIRST. Returns the last one
    of this call, None if there are no more.
    """
    connection, name = transaction.connection, _KEPT[table]
    # In order of use, by the index of kept rows: the walk never meets those that eviction may take.
    rows: Any = connection.execute(
        f"SELECT used, {name}, kept FROM {table} "  # noqa: S608 - constants
        f"WHERE kept > 0 AND (used, {name}) > (?, ?) ORDER BY used, {name} LIMIT ?",
        (*after, limit),
    ).fetchall()
    connection.executemany(
        f"UPDATE {table} SET kept = 0 WHERE {name} = ?",  # noqa: S608 - constants
        [(row_name,) for _, row_name, kept in rows if kept in ended_ids],
    )
    return (rows[-1][0], rows[-1][1]) if rows else None


def hold_blob(transaction: Transaction, key: bytes) -> None:
    """Keep a blob of a rebuilt catalogue until it was found out what pins name."""
    keeping_id = _without_pin(transaction)
    row: Any = transaction.connection.execute(
        f"UPDATE blob SET kept = ? WHERE key = ? AND kept = 0 RETURNING {footprint.COST}",  # noqa: S608
        (keeping_id, key),
    ).fetchone()
    if row is not None:
        keepings.add(transaction, keeping_id, row[0], 1)


def hold_entries(transaction: Transaction, row_ids: Collection[int]) -> None:
    """Keep entries likewise."""
    for row_id in row_ids:
        keeping_id = _without_pin(transaction)
        row: Any = transaction.connection.execute(
            "UPDATE entry SET kept = ? WHERE id = ? AND kept = 0 "  # noqa: S608 - constants
            f"RETURNING {footprint.ENTRY_SIZE}",
            (keeping_id, row_id),
        ).fetchone()
        if row is not None:
            keepings.add(transaction, keeping_id, footprint.cost_of_entry(row[0]), 0)


def _without_pin(transaction: Transaction) -> int:
    """Return a keeping that ends as soon as pins were looked for."""
    connection = transaction.connection
    found = ended(connection)
    # One is enough for all that is held, as all of it ends together.
    if found:
        return found[0]
    return keepings.new_row(connection, None, 0, 0)


def forget(transaction: Transaction, ended_ids: Collection[int]) -> None:
    """Remove keepings of which all was given back."""
    freed = 0
    for keeping_id in ended_ids:
        row: Any = transaction.connection.execute(
            "DELETE FROM keeping WHERE id = ? AND pin IS NULL RETURNING bytes", (keeping_id,)
        ).fetchone()
        if row is not None:
            freed += row[0]
    keepings.add_to_total(transaction, -freed)
