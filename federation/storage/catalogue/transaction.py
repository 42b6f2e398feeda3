"""One catalogue transaction, as the operations inside it see it: connection, time, totals, log.

The running totals and the change log's next number are read once and written once a transaction,
so an insert costs no extra row for them. Changed folders are made durable before the commit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from federation.core.store import Provenance, Stamp
from federation.storage.catalogue.hlc import DRIFT_S
from federation.storage.catalogue.schema import of_a_row

# Names in the table meta of what processes share.
LOG_EPOCH = "log_epoch"  # of the change log: another one, other rows under the same numbers
CATALOGUE_FILE = "catalogue_inode"  # the file's number when it was opened last: a copy has another
VOLUME_ID = "volume_id"  # of blobs/: its marker says the same
HOLD = "evict_hold_until_ms"  # store time until which nothing is evicted
REQUEST = "collect_request"  # what `federation gc` asks of the process that evicts
DONE = "collect_done"  # its answer

BLOB = 0  # kind of a log row; index entries use the values of EntryKind
NO_INSTANCE = 0  # of blobs, and of the empty name

_LOG = "INSERT INTO log VALUES (?1, {}, {}, ?2, ?3, {}, {}, {}, {}, ?4)"
_LITERAL_ROWS = 32  # fewer are inserted sooner than another statement is compiled


# All columns, in the order of Totals behind the id: also the fewer that an older schema has, which
# `federation status` may find beside a node that was not restarted yet.
_TOTALS = "SELECT * FROM totals"


@dataclass(slots=True)
class Totals:
    """What is held: bytes of blobs and index values, numbers of both; where log and clock stand."""

    size_bytes: int = 0
    blobs: int = 0
    entries: int = 0
    seq: int = 0  # of the newest log row
    logged_bytes: int = 0  # sizes of all rows ever logged
    ticks: int = 0  # of the greatest stamp given or met
    files_bytes: int = 0  # what blob files take of the disk


@dataclass(slots=True)
class Transaction:
    """An open write transaction; it has the catalogue's write lock over all processes."""

    connection: apsw.Connection
    now_ms: int
    wall_s: float
    totals: Totals
    quota_bytes: int
    node_id: str
    drift_s: float = DRIFT_S  # how far a stamp may be ahead of wall_s
    held_bytes: int = 0  # of the quota, at the beginning
    grown_bytes: int = 0  # by what was done since, as far as that can be told
    folders: set[str] = field(default_factory=set)  # to sync before the commit

    def next_seq(self) -> int:
        """Number the next accepted object."""
        return self.take_seqs(1)

    def take_seqs(self, count: int) -> int:
        """Number the next accepted objects, one after the other; returns the first number."""
        first = self.totals.seq + 1
        self.totals.seq += count
        return first

    def log(
        self, seq: int, kind: int, instance: int, name: bytes, size: int, origin: Provenance
    ) -> None:
        """Append the change log row of an accepted object."""
        self._log([(seq, name, size)], kind, instance, origin)

    def log_blobs(self, rows: Iterable[tuple[int, bytes, int]], origin: Provenance) -> None:
        """Append those of blobs: their numbers, keys and sizes."""
        self._log(rows, BLOB, NO_INSTANCE, origin)

    def _log(
        self, rows: Iterable[tuple[int, bytes, int]], kind: int, instance: int, origin: Provenance
    ) -> None:
        total = self.totals.logged_bytes
        logged = [(seq, name, size, total := total + size) for seq, name, size in rows]
        via = ",".join(origin.via)
        shared = (kind, instance, self.wall_s, int(origin.source), via, origin.origin)
        insert_all(self.connection, _LOG, logged, shared)
        self.totals.logged_bytes = total

    def observe(self, stamp: Stamp) -> None:
        """Date whatever is given here from now on after this."""
        self.totals.ticks = max(self.totals.ticks, stamp.ticks)

    def room_for(self, size_bytes: int) -> bool:
        """Whether the quota has this many bytes left, seen from inside the write lock."""
        return self.held_bytes + self.grown_bytes + size_bytes <= self.quota_bytes


def insert_all(
    connection: apsw.Connection,
    statement: str,
    rows: list[tuple[Any, ...]],
    shared: tuple[Any, ...],
) -> None:
    """Insert rows that have some values in common.

    statement: has a numbered parameter for each value of a row, and {} for each shared one. Where
    there are many rows the shared values are literals: binding them again for each row took a
    seventh of the time of inserting a thousand blobs.
    """
    if len(rows) >= _LITERAL_ROWS:
        connection.executemany(statement.format(*map(apsw.format_sql_value, shared)), rows)
    elif rows:
        bound = _with_parameters(statement, len(rows[0]), len(shared))
        connection.executemany(bound, [row + shared for row in rows])


@functools.cache
def _with_parameters(statement: str, own: int, shared: int) -> str:
    return statement.format(*(f"?{at}" for at in range(own + 1, own + shared + 1)))


def read_totals(connection: apsw.Connection) -> Totals:
    """Return the totals as last committed."""
    row = connection.execute(_TOTALS).fetchone()
    return _totals(row[1:]) if row else Totals()


@of_a_row
def _totals(columns: Sequence[Any]) -> Totals:
    if not all(isinstance(number, int) and number >= 0 for number in columns):
        raise ValueError(f"totals that cannot be: {columns}")
    return Totals(*columns)


def write_totals(connection: apsw.Connection, totals: Totals) -> None:
    """Store the totals inside the open transaction."""
    connection.execute(
        "UPDATE totals SET bytes = ?, blobs = ?, entries = ?, seq = ?, logged = ?, ticks = ?, "
        "files = ?",
        dataclasses.astuple(totals),
    )


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
