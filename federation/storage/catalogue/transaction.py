"""One catalogue transaction as the operations in it see it: connection, time, totals, log.

The totals and the change log's next number are read and written once per transaction, so that an
insert writes no extra row for them. Changed folders are made durable before the commit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from federation.core.index import EntryKey, Stamp
from federation.core.provenance import Provenance
from federation.storage.catalogue.hlc import DRIFT_S, next_ticks
from federation.storage.catalogue.schema import of_a_row

# Names in the table meta, which all processes share.
LOG_EPOCH = "log_epoch"  # id of the change log: under another id, rows have other numbers
CATALOGUE_FILE = "catalogue_inode"  # inode when it was last opened; a copy has another one
VOLUME_ID = "volume_id"  # of blobs/; also in the marker file there
HOLD = "evict_hold_until_ms"  # store time until which nothing is evicted
REQUEST = "collect_request"  # from `federation gc` to the process that evicts
DONE = "collect_done"  # the answer to it
ENTRY_CHANGES = "entry_changes"  # how many transactions have changed index entries

BLOB = 0  # kind of a log row; index entries use the values of EntryKind
NO_INSTANCE = 0  # of blobs, and of the empty name

_LOG = "INSERT INTO log VALUES (?1, {}, {}, ?2, ?3, {}, {}, {}, {}, ?4)"
_LITERAL_ROWS = 32  # below this, compiling a statement of its own costs more than it saves


# All columns, in the order of Totals after the id. An older schema has fewer columns: `federation
# status` may read one beside a node that still runs the older program.
_TOTALS = "SELECT * FROM totals"


@dataclass(slots=True)
class Totals:
    """Bytes and numbers of the blobs and entries held, and the state of the log and the clock."""

    size_bytes: int = 0
    blobs: int = 0
    entries: int = 0
    seq: int = 0  # of the newest log row
    logged_bytes: int = 0  # sizes of all rows ever logged
    ticks: int = 0  # of the greatest stamp given or received
    files_bytes: int = 0  # what blob files take of the disk

    def row(self) -> tuple[int, ...]:
        """Return the values in the order of the table's columns (dataclasses.astuple is slow)."""
        return (
            self.size_bytes, self.blobs, self.entries, self.seq, self.logged_bytes, self.ticks,
            self.files_bytes,
        )  # fmt: skip

    def copy(self) -> Totals:
        """Return a copy, to go back to."""
        return Totals(*self.row())


@dataclass(slots=True)
class Transaction:
    """An open write transaction. It holds the catalogue's write lock against all processes."""

    connection: apsw.Connection
    now_ms: int
    wall_s: float
    totals: Totals
    quota_bytes: int
    node_id: str
    drift_s: float = DRIFT_S  # how far a stamp may be ahead of wall_s
    held_bytes: int = 0  # of the quota, measured at the beginning
    grown_bytes: int = 0  # estimated growth since then
    folders: set[str] = field(default_factory=set)  # to sync before the commit
    changed_entries: list[EntryKey] = field(default_factory=list)
    changes_any_entry: bool = False  # also others than changed_entries

    @property
    def changes_entries(self) -> bool:
        """Whether any index entry may have changed; times of use do not count."""
        return self.changes_any_entry or bool(self.changed_entries)

    def next_seq(self) -> int:
        """Return the change log number of the next accepted object."""
        return self.take_seqs(1)

    def take_seqs(self, count: int) -> int:
        """Reserve change log numbers for the next count objects; return the first of them."""
        first = self.totals.seq + 1
        self.totals.seq += count
        return first

    def log(
        self, seq: int, kind: int, instance: int, name: bytes, size: int, origin: Provenance
    ) -> None:
        """Append the change log row of an accepted object."""
        self._log([(seq, name, size)], kind, instance, origin)

    def log_blobs(self, rows: Iterable[tuple[int, bytes, int]], origin: Provenance) -> None:
        """Append the change log rows of blobs, given as (seq, key, size)."""
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
        """Make every stamp given here from now on later than this one."""
        self.totals.ticks = max(self.totals.ticks, stamp.ticks)

    def next_stamp(self, above: int = 0) -> Stamp:
        """Return a stamp of now that is later than all seen here, and than the ticks above."""
        ticks = next_ticks(self.totals.ticks, self.wall_s, self.drift_s)
        stamp = Stamp(max(ticks, above + 1), self.node_id)
        self.observe(stamp)
        return stamp

    def room_for(self, size_bytes: int) -> bool:
        """Return whether the quota has this many bytes left, as seen under the write lock."""
        return self.held_bytes + self.grown_bytes + size_bytes <= self.quota_bytes


def insert_all(
    connection: apsw.Connection,
    statement: str,
    rows: list[tuple[Any, ...]],
    shared: tuple[Any, ...],
) -> None:
    """Insert rows that have some values in common.

    statement: has a numbered parameter for each value of a row, and {} for each shared value. For
    many rows the shared values become literals: binding them again for each row took a seventh of
    the time of inserting a thousand blobs.
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
        raise ValueError(f"impossible totals: {columns}")
    return Totals(*columns)


def write_totals(connection: apsw.Connection, totals: Totals) -> None:
    """Store the totals inside the open transaction."""
    connection.execute(
        "UPDATE totals SET bytes = ?, blobs = ?, entries = ?, seq = ?, logged = ?, ticks = ?, "
        "files = ?",
        totals.row(),
    )


def get_meta(connection: apsw.Connection, name: str) -> Any:
    """Return a value of the table meta, None when it is not set."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def set_meta(transaction: Transaction, name: str, value: int | str | None) -> None:
    """Set a value of the table meta; None removes it."""
    if value is None:
        transaction.connection.execute("DELETE FROM meta WHERE name = ?", (name,))
    else:
        transaction.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
