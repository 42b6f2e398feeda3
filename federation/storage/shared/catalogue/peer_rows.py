"""Peer records and parked objects in the site's database: see federation.core.replication_log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from federation.core.digest import Digest
from federation.core.index import EntryKey, EntryKind
from federation.core.replication_log import Lane, Parked, PeerRecord, PeerState
from federation.storage.catalogue.blobs import digest_of_key, key_of
from federation.storage.catalogue.parked import KEPT_MAX
from federation.storage.catalogue.transaction import BLOB
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.rows import Lead
from federation.storage.shared.catalogue.texts import clean

_RECORDS = """
SELECT s.seq, name, lane, cursor, state, reason, position, node_id, log_seen, wanted, served,
  sent_objects, sent_bytes, last_success, last_error, last_error_at, pins_pulled, marks, holds,
  peer.purges
FROM site s LEFT JOIN peer ON true ORDER BY name, lane
"""
_BEYOND = "its cursor is beyond the end of the change log"
_PARKED = """
SELECT peer, kind, instance, name, size, seq, label, reason, parked, tries, retry FROM parked
"""
_OF_ONE = "WHERE peer = $1 OR $1 IS NULL ORDER BY id LIMIT $2"
# $3: how long is waited after each number of tries, the last one for all further ones.
_DUE = """
WHERE peer = $1 AND (retry OR parked > $2
  OR parked <= $2 - ($3::float8[])[least(tries, cardinality($3::float8[]))])
ORDER BY retry DESC, parked, id LIMIT $4
"""
_PARK = "SELECT federation_park($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
_UNPARK = "SELECT federation_unpark($1, $2, $3, $4, $5)"
_ASK_RETRY = """
WITH asked AS (UPDATE parked SET retry = true WHERE peer = $1 OR $1 IS NULL RETURNING 1)
SELECT count(*) FROM asked
"""


class SitePeers:
    """All methods raise SourceUnavailable; those that take a lead raise LeadLost.

    lead: None for those who never led, commands among them.
    """

    def __init__(self, connections: DatabaseConnections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<SitePeers over {self._connections!r}>"

    async def records(self) -> list[PeerRecord]:
        """See ReplicationLog.peers."""
        rows = await self._connections.ask(_RECORDS)
        return [_record(head, columns) for head, *columns in rows if columns[0] is not None]

    async def save(self, lead: Lead | None, records: Sequence[PeerRecord]) -> None:
        """See ReplicationLog.save."""
        given = json.dumps([_plain(record) for record in records])
        await self._connections.ask(
            "SELECT federation_save_peers($1, $2::jsonb)", _term(lead), given
        )

    async def want(self, name: str) -> None:
        """See ReplicationLog.want."""
        call = "UPDATE peer SET wanted = wanted + 1 WHERE name = $1"
        await self._connections.ask(call, clean(name), twice=False)

    async def drop(self, name: str) -> None:
        """See ReplicationLog.drop."""
        await self._connections.ask("SELECT federation_drop_peer($1)", clean(name))

    async def park(self, lead: Lead | None, rows: Sequence[Parked]) -> int:
        """See ReplicationLog.park; returns how many older ones were forgotten."""
        (forgotten,) = await self._connections.ask_one(
            _PARK,
            _term(lead),
            *_object_arrays(rows),
            arrays.numbers([row.digest.size_bytes if row.digest else 0 for row in rows]),
            arrays.numbers([row.seq for row in rows]),
            arrays.blobs([row.label.encode() for row in rows]),
            [clean(row.reason) for row in rows],
            [row.parked_at_s for row in rows],
            arrays.numbers([row.tries for row in rows]),
            [row.retry for row in rows],
            KEPT_MAX,
            twice=False,  # it counts tries
        )
        return int(forgotten)

    async def parked(self, name: str | None, limit: int) -> list[Parked]:
        """See ReplicationLog.parked."""
        return [_parked(row) for row in await self._connections.ask(_PARKED + _OF_ONE, name, limit)]

    async def parked_due(
        self, name: str, now_s: float, waits_s: Sequence[float], limit: int
    ) -> list[Parked]:
        """See ReplicationLog.parked_due."""
        rows = await self._connections.ask(_PARKED + _DUE, name, now_s, list(waits_s), limit)
        return [_parked(row) for row in rows]

    async def parked_counts(self) -> dict[str, int]:
        """See ReplicationLog.parked_counts."""
        rows = await self._connections.ask("SELECT peer, count(*) FROM parked GROUP BY peer")
        return dict(rows)

    async def unpark(self, lead: Lead | None, rows: Sequence[Parked]) -> None:
        """See ReplicationLog.unpark."""
        await self._connections.ask(_UNPARK, _term(lead), *_object_arrays(rows))

    async def ask_retry(self, name: str | None) -> int:
        """See ReplicationLog.ask_retry."""
        (asked,) = await self._connections.ask_one(_ASK_RETRY, name)
        return int(asked)


def _term(lead: Lead | None) -> int | None:
    return None if lead is None else lead.term


def _plain(record: PeerRecord) -> dict[str, Any]:
    return {
        name: clean(value) if isinstance(value, str) else value
        for name, value in record._asdict().items()
    }


def _record(head: int, columns: Sequence[Any]) -> PeerRecord:
    record = PeerRecord(*columns)
    record = record._replace(lane=Lane(record.lane), state=PeerState(record.state))
    if record.cursor <= head:
        return record
    # The cursor belongs to another log. Objects are kept for the peer once it was reached again.
    return record._replace(state=PeerState.NEEDS_RESYNC, reason=_BEYOND, position="", holds=False)


def object_columns(digest: Digest | None, key: EntryKey | None) -> tuple[int, bytes, bytes]:
    """Return kind, instance and name by which the log and parked objects name an object."""
    if digest is not None:
        return BLOB, b"", key_of(digest)
    assert key is not None
    return int(key.kind), key.instance.encode(), key.name


def object_of(
    kind: int, instance: bytes, name: bytes, size_bytes: int
) -> tuple[Digest | None, EntryKey | None]:
    """Return the object that object_columns() gave these columns for."""
    if kind == BLOB:
        return digest_of_key(name, size_bytes), None
    return None, EntryKey(EntryKind(kind), instance.decode(), name)


def _object_arrays(rows: Sequence[Parked]) -> tuple[object, ...]:
    columns = [object_columns(row.digest, row.key) for row in rows]
    return (
        [row.peer for row in rows],
        arrays.numbers([kind for kind, _, _ in columns]),
        arrays.blobs([instance for _, instance, _ in columns]),
        arrays.blobs([name for _, _, name in columns]),
    )


def _parked(row: Sequence[Any]) -> Parked:
    peer, kind, instance, name, size, seq, label, reason, parked_s, tries, retry = row
    digest, key = object_of(kind, instance, name, size)
    return Parked(peer, seq, digest, key, label.decode(), reason, parked_s, tries, retry)
