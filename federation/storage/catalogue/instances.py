"""Instance names in the catalogue: each once, rows have its id.

Names cost what they are long; before they were interned, a kilobyte of name was in each of
thousands of rows and of their indexes.
"""

from __future__ import annotations

from typing import Any

import apsw

from federation.storage.catalogue.transaction import NO_INSTANCE, Transaction

ID = "(SELECT id FROM instance WHERE name = ?)"  # for SQL: of a name
NAME = "(SELECT name FROM instance WHERE id = instance)"  # of the column instance


def intern(transaction: Transaction, name: str) -> int:
    """Return the id of a name, given to it now where it has none."""
    if not name:
        return NO_INSTANCE
    connection = transaction.connection
    row: Any = connection.execute("SELECT id FROM instance WHERE name = ?", (name,)).fetchone()
    if row is None:
        connection.execute("INSERT INTO instance (name) VALUES (?)", (name,))
        return connection.last_insert_rowid()
    return int(row[0])


def forget_unused(transaction: Transaction) -> int:
    """Remove names that no row has any more; return how many. Reads the index of entries."""
    transaction.connection.execute(
        "DELETE FROM instance WHERE id > 0 "
        "AND id NOT IN (SELECT instance FROM entry) "
        "AND id NOT IN (SELECT instance FROM log) AND id NOT IN (SELECT instance FROM parked)"
    )
    return transaction.connection.changes()


def count(connection: apsw.Connection) -> int:
    """Return how many names there are."""
    row: Any = connection.execute("SELECT count(*) FROM instance").fetchone()
    return int(row[0])
