"""Instance names in the catalogue: each is stored once, and rows refer to its id.

A name may be a kilobyte long, and would otherwise be repeated in thousands of rows and indexes.
"""

from __future__ import annotations

from typing import Any

import apsw

from federation.storage.catalogue.transaction import NO_INSTANCE, Transaction

ID = "(SELECT id FROM instance WHERE name = ?)"  # SQL for the id of a bound name
NAME = "(SELECT name FROM instance WHERE id = instance)"  # SQL for the name in column instance


def intern(transaction: Transaction, name: str) -> int:
    """Return the id of a name, adding the name if it is new."""
    # It is in the table from the beginning, and most rows have it.
    if not name:
        return NO_INSTANCE
    connection = transaction.connection
    row: Any = connection.execute("SELECT id FROM instance WHERE name = ?", (name,)).fetchone()
    if row is None:
        connection.execute("INSERT INTO instance (name) VALUES (?)", (name,))
        return connection.last_insert_rowid()
    return int(row[0])


def forget_unused(transaction: Transaction) -> int:
    """Remove names that no row refers to; return how many. Reads the whole index of entries."""
    # Every table with a column `instance` has to be named here.
    transaction.connection.execute(
        "DELETE FROM instance WHERE id > 0 "
        "AND id NOT IN (SELECT instance FROM entry) "
        "AND id NOT IN (SELECT instance FROM log) AND id NOT IN (SELECT instance FROM parked) "
        "AND id NOT IN (SELECT instance FROM purge)"
    )
    return transaction.connection.changes()


def count(connection: apsw.Connection) -> int:
    """Return how many names there are."""
    row: Any = connection.execute("SELECT count(*) FROM instance").fetchone()
    return int(row[0])
