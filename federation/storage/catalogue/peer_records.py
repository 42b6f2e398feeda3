"""Queries and updates of peer records: how far each peer has acknowledged the change log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import Transaction, read_totals

_COLUMNS = (
    "name, lane, cursor, state, reason, position, node_id, log_seen, wanted, served, "
    "sent_objects, sent_bytes, last_success, last_error, last_error_at, pins_pulled, marks, holds, "
    "purges"
)
# A save leaves wanted and marks alone: storage itself counts them. If storage has marked the record
# since the caller read it, the save also leaves alone what the mark has set.
_SAVE = """
INSERT INTO peer (name, lane, cursor, state, reason, position, node_id, log_seen, served,
  sent_objects, sent_bytes, last_success, last_error, last_error_at, pins_pulled, holds, purges)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?18, ?19)
ON CONFLICT (name, lane) DO UPDATE SET
  state = CASE WHEN marks > ?17 THEN state ELSE ?4 END,
  reason = CASE WHEN marks > ?17 THEN reason ELSE ?5 END,
  position = CASE WHEN marks > ?17 THEN position ELSE ?6 END,
  holds = CASE WHEN marks > ?17 THEN holds WHEN ?4 = 'following' THEN 1 ELSE ?18 END,
  cursor = ?3, node_id = ?7, log_seen = ?8, served = ?10, sent_objects = ?11, sent_bytes = ?12,
  last_success = ?13, last_error = ?14, last_error_at = ?15, pins_pulled = ?16,
  purges = ?19
"""
_BEYOND = "its cursor is beyond the end of the change log"


class PeerHolds(NamedTuple):
    """The newest log rows whose objects may be evicted; those of later rows are held for peers."""

    received: int  # for objects that clients and peers sent
    pulled: int  # for objects that came from upstreams


NO_HOLDS = PeerHolds(2**62, 2**62)


def read(connection: apsw.Connection) -> list[PeerRecord]:
    """Return all records. One whose cursor is beyond the log's end is read as needing a resync."""
    with connection:
        rows: Any = connection.execute(
            f"SELECT {_COLUMNS} FROM peer ORDER BY name, lane"  # noqa: S608 - constants
        ).fetchall()
        head = read_totals(connection).seq
    return [_record((head, *row)) for row in rows]


@of_a_row
def _record(row: Sequence[Any]) -> PeerRecord:
    head, *columns = row
    record = PeerRecord._make(columns)
    record = record._replace(
        lane=Lane(record.lane),
        state=PeerState(record.state),
        pins_pulled=bool(record.pins_pulled),
        holds=bool(record.holds),
    )
    if record.cursor <= head:
        return record
    # The cursor belongs to another log. Objects are kept for the peer once it was reached again.
    return record._replace(state=PeerState.NEEDS_RESYNC, reason=_BEYOND, position="", holds=False)


def save(transaction: Transaction, records: Iterable[PeerRecord]) -> None:
    """See federation.core.replication_log.ReplicationLog."""
    transaction.connection.executemany(_SAVE, [tuple(record) for record in records])


def want(transaction: Transaction, name: str) -> None:
    """See federation.core.replication_log.ReplicationLog."""
    transaction.connection.execute("UPDATE peer SET wanted = wanted + 1 WHERE name = ?", (name,))


def drop(transaction: Transaction, name: str) -> None:
    """See federation.core.replication_log.ReplicationLog."""
    transaction.connection.execute("DELETE FROM peer WHERE name = ?", (name,))


def mark(transaction: Transaction, record: PeerRecord, reason: str) -> None:
    """Unpin everything for this lane of a peer, which then needs a reconcile."""
    transaction.connection.execute(
        "UPDATE peer SET state = ?, reason = ?, position = '', marks = marks + 1, holds = 0 "
        "WHERE name = ? AND lane = ?",
        (PeerState.NEEDS_RESYNC.value, reason, record.name, record.lane.value),
    )


def holding(records: Iterable[PeerRecord]) -> list[PeerRecord]:
    """Return the records that pin objects beyond their cursor, the one that lags most first.

    A peer that was never reached has such a record from the moment it was first configured.
    """
    found = [record for record in records if record.holds]
    return sorted(found, key=lambda record: record.cursor)


def holds(records: Iterable[PeerRecord]) -> PeerHolds:
    """Return what these records hold; without any record, nothing is held."""
    received, pulled = NO_HOLDS
    for record in holding(records):
        received = min(received, record.cursor)
        # A peer that gets nothing of upstreams' waits for nothing of theirs.
        if record.pins_pulled:
            pulled = min(pulled, record.cursor)
    return PeerHolds(received, pulled)
