"""Queries and updates of parked objects: those that a peer refuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from federation.core.digest import Digest
from federation.core.index import EntryKey, EntryKind
from federation.core.replication_log import Parked
from federation.storage.catalogue import instances
from federation.storage.catalogue.blobs import digest_of_key, key_of
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import BLOB, Transaction

KEPT_MAX = 100_000  # per peer; the oldest are forgotten, and a reconcile finds them again

_PARK = (
    "INSERT INTO parked (peer, kind, instance, name, size, seq, label, reason, parked, tries, "
    "retry) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) "
    "ON CONFLICT (peer, kind, instance, name) DO UPDATE SET size = ?5, seq = ?6, label = ?7, "
    "reason = ?8, parked = ?9, tries = tries + 1, retry = 0"
)
_COLUMNS = f"peer, kind, {instances.NAME}, name, size, seq, label, reason, parked, tries, retry"


def park(transaction: Transaction, rows: Iterable[Parked]) -> int:
    """Remember objects as parked; return how many older ones were forgotten to make room."""
    execute = transaction.connection.execute
    peers = set()
    for row in rows:
        peers.add(row.peer)
        what = (row.seq, row.label, row.reason, row.parked_at_s, row.tries, int(row.retry))
        kind, instance, name, size = _object(row.digest, row.key)
        of = instances.intern(transaction, instance)
        execute(_PARK, (row.peer, kind, of, name, size, *what))
    forgotten = 0
    for peer in peers:
        execute(
            "DELETE FROM parked WHERE peer = ?1 AND id <= (SELECT id FROM parked WHERE peer = ?1 "
            "ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (peer, KEPT_MAX),
        )
        forgotten += transaction.connection.changes()
    return forgotten


def _object(digest: Digest | None, key: EntryKey | None) -> tuple[int, str, bytes, int]:
    """Return an object's kind, instance, name and size as in the change log."""
    if digest is not None:
        return BLOB, "", key_of(digest), digest.size_bytes
    assert key is not None
    return int(key.kind), key.instance, key.name, 0


def read(connection: apsw.Connection, peer: str | None, limit: int) -> list[Parked]:
    """Return up to limit parked objects, oldest first; peer None: those of all peers."""
    rows: Any = connection.execute(
        f"SELECT {_COLUMNS} FROM parked "  # noqa: S608 - constants
        "WHERE peer = ?1 OR ?1 IS NULL ORDER BY id LIMIT ?2",
        (peer, limit),
    ).fetchall()
    return [_parked(row) for row in rows]


def due(
    connection: apsw.Connection, peer: str, now_s: float, waits_s: Sequence[float], limit: int
) -> list[Parked]:
    """See parked_due of federation.core.replication_log.ReplicationLog."""
    waits = " ".join(f"WHEN {tries} THEN {wait:f}" for tries, wait in enumerate(waits_s, start=1))
    rows: Any = connection.execute(
        f"SELECT {_COLUMNS} FROM parked WHERE peer = ?1 AND "  # noqa: S608 - constants, numbers
        f"(retry = 1 OR parked > ?2 OR parked <= ?2 - CASE tries {waits} ELSE {waits_s[-1]:f} END) "
        "ORDER BY retry DESC, parked, id LIMIT ?3",
        (peer, now_s, limit),
    ).fetchall()
    return [_parked(row) for row in rows]


@of_a_row
def _parked(row: tuple[Any, ...]) -> Parked:
    peer, kind, instance, name, size, seq, label, reason, parked_at, tries, retry = row
    is_blob = kind == BLOB
    digest = digest_of_key(name, size) if is_blob else None
    key = None if is_blob else EntryKey(EntryKind(kind), instance, name)
    return Parked(peer, seq, digest, key, label, reason, parked_at, tries, bool(retry))


def reason(
    connection: apsw.Connection, peer: str, kind: int, instance: str, name: bytes
) -> str | None:
    """Return why an object (named as in the change log) is parked for a peer; None: it is not."""
    row: Any = connection.execute(
        "SELECT reason FROM parked WHERE peer = ? AND kind = ? "  # noqa: S608 - constants
        f"AND instance = {instances.ID} AND name = ?",
        (peer, kind, instance, name),
    ).fetchone()
    return None if row is None else str(row[0])


def counts(connection: apsw.Connection) -> dict[str, int]:
    """Return the number of parked objects for each peer that has any."""
    rows: Any = connection.execute("SELECT peer, count(*) FROM parked GROUP BY peer").fetchall()
    return dict(rows)


def unpark(transaction: Transaction, rows: Iterable[Parked]) -> None:
    """Remove these objects from what is parked."""
    for row in rows:
        kind, instance, name, _ = _object(row.digest, row.key)
        transaction.connection.execute(
            "DELETE FROM parked WHERE peer = ? AND kind = ? "  # noqa: S608 - constants
            f"AND instance = {instances.ID} AND name = ?",
            (row.peer, kind, instance, name),
        )


def ask_retry(transaction: Transaction, peer: str | None) -> int:
    """Mark parked objects (peer None: of all peers) for a retry; return how many."""
    transaction.connection.execute(
        "UPDATE parked SET retry = 1 WHERE peer = ?1 OR ?1 IS NULL", (peer,)
    )
    return transaction.connection.changes()


def drop(transaction: Transaction, peer: str) -> None:
    """Remove everything that is parked for a peer."""
    transaction.connection.execute("DELETE FROM parked WHERE peer = ?", (peer,))
