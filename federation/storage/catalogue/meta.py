"""The catalogue's table of single values, and the names of those that processes share."""

from __future__ import annotations

from typing import Any

import apsw

from federation.storage.catalogue.transaction import Transaction

LOG_EPOCH = "log_epoch"  # of the change log: another one, other rows under the same numbers
CATALOGUE_FILE = "catalogue_inode"  # the file's number when it was opened last: a copy has another
VOLUME_ID = "volume_id"  # of blobs/: its marker says the same
HOLD = "evict_hold_until_ms"  # store time until which nothing is evicted
REQUEST = "collect_request"  # what `federation gc` asks of the process that evicts
DONE = "collect_done"  # its answer


def get_meta(connection: apsw.Connection, name: str) -> Any:
    """Return a value of the table meta, None when it is not set."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def set_meta(transaction: Transaction, name: str, value: int | str | None) -> None:
    """Set or (None) remove a value of the table meta."""
    if value is None:
        transaction.connection.execute("DELETE FROM meta WHERE name = ?", (name,))
    else:
        transaction.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
