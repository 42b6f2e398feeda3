"""Reading the site's change log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from federation.core.provenance import Source
from federation.core.replication_log import LogRow, LogSlice
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.peer_rows import object_of
from federation.storage.shared.catalogue.texts import split

# One statement, and so one snapshot of both tables. The end of the log comes with each row.
_READ = """
SELECT s.seq, i.token, l.* FROM site s
CROSS JOIN federation_incarnation() AS i(token)
LEFT JOIN LATERAL (
  SELECT seq, kind, instance, name, size, stored, source, via, origin, total FROM log
  WHERE seq > $1 ORDER BY seq LIMIT $2
) AS l ON true ORDER BY l.seq
"""
_TOTAL = """
SELECT coalesce(
  (SELECT total FROM log WHERE seq <= $1 ORDER BY seq DESC LIMIT 1),
  (SELECT total - size FROM log ORDER BY seq LIMIT 1), 0)
"""
# Not md5(), which a server in FIPS mode refuses.
_FINGERPRINT = """
SELECT encode(sha256(float8send(stored) || int8send(total) || name), 'hex') FROM log WHERE seq = $1
"""


class LogReader:
    """Reads rows that are durable: a peer must never be ahead of what a crash leaves."""

    def __init__(self, connections: DatabaseConnections, flusher: CommitFlusher) -> None:
        self._connections = connections
        self._flusher = flusher

    def __repr__(self) -> str:
        return f"<LogReader over {self._connections!r}>"

    async def read(self, after: int, limit: int) -> LogSlice:
        """See ReplicationLog.read. Raises SourceUnavailable."""
        rows = await self._connections.ask_some(_READ, after, limit)
        head, life, first, *_ = rows[0]
        if first is None:
            return LogSlice([], limit == 0 or after == head)
        found = [_row(columns) for _, _, *columns in rows]
        await self._flusher.cover(found[-1].seq, life)
        return LogSlice(found, first == after + 1)

    async def total_bytes(self, seq: int) -> int:
        """See ReplicationLog.total_bytes. Raises SourceUnavailable."""
        (total,) = await self._connections.ask_one(_TOTAL, seq)
        return max(0, int(total))

    async def fingerprint(self, seq: int) -> str | None:
        """Return what tells a row from any that has its number in another history of the site.

        None: there is no such row, or it was trimmed. Raises SourceUnavailable.
        """
        rows = await self._connections.ask(_FINGERPRINT, seq)
        return str(rows[0][0]) if rows else None


def _row(columns: Sequence[Any]) -> LogRow:
    seq, kind, instance, name, size, stored_s, source, via, origin, total = columns
    digest, key = object_of(kind, instance, name, size)
    return LogRow(seq, digest, key, size, stored_s, Source(source), split(via), origin, total)
