"""One catalogue transaction, as the operations inside it see it: connection, time, totals, log.

The running totals and the change log's next number are read once and written once a transaction,
so an insert costs no extra row for them. Changed folders are made durable before the commit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import apsw

from federation.store import Provenance

BLOB = 0  # kind of a log row; index entries use the values of EntryKind

_LOG = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class Totals:
    """What is held: bytes of blobs and index values, numbers of both, and the last log row."""

    size_bytes: int = 0
    blobs: int = 0
    entries: int = 0
    seq: int = 0


@dataclass(slots=True)
class Transaction:
    """An open write transaction; it has the catalogue's write lock over all processes."""

    connection: apsw.Connection
    now_ms: int
    wall_s: float
    totals: Totals
    quota_bytes: int
    folders: set[str] = field(default_factory=set)  # to sync before the commit

    def next_seq(self) -> int:
        """Number the next accepted object."""
        self.totals.seq += 1
        return self.totals.seq

    def log(
        self, seq: int, kind: int, instance: str, name: bytes, size: int, origin: Provenance
    ) -> None:
        """Append the change log row of an accepted object."""
        came = (int(origin.source), ",".join(origin.via), origin.origin)
        self.connection.execute(_LOG, (seq, kind, instance, name, size, self.wall_s, *came))

    def room_for(self, size_bytes: int) -> bool:
        """Whether the quota has this many bytes left, seen from inside the write lock."""
        return self.totals.size_bytes + size_bytes <= self.quota_bytes


def read_totals(connection: apsw.Connection) -> Totals:
    """Return the totals as last committed."""
    row = connection.execute("SELECT bytes, blobs, entries, seq FROM totals").fetchone()
    return Totals(*row) if row else Totals()


def write_totals(connection: apsw.Connection, totals: Totals) -> None:
    """Store the totals inside the open transaction."""
    connection.execute(
        "UPDATE totals SET bytes = ?, blobs = ?, entries = ?, seq = ?",
        dataclasses.astuple(totals),
    )
