"""Pages through everything that the site holds, by the hour of last use: see storage/scan.py.

The numbers of the change log order the objects of one hour. An object that is used meanwhile moves
to the present hour, where the way up finds it. What pins keep comes last on the way up, and not on
the way down: it has no place in the order of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from federation.core.index import EntryKey, EntryKind
from federation.core.provenance import Source
from federation.core.replication_log import Page
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.entry_rows import COLUMNS, entry_of
from federation.storage.shared.catalogue.rows import FIRST_KEPT_ERA, HOUR_OF_USE
from federation.storage.walk_position import WalkPosition

_HOUR_MS = 3_600_000
_MARGIN = 1  # an hour: caches tell of uses within minutes
_PAGE_BYTES = 8 * 2**20  # values of entries in one page; at least one entry
_NOW = "SELECT now_ms FROM clock"
_BLOBS = f"SELECT era, seq, {HOUR_OF_USE}, key, size, source FROM blob WHERE (era, seq) "  # noqa: S608
_ENTRIES = f"""
SELECT era, seq, {HOUR_OF_USE}, kind, instance, name, {COLUMNS} FROM (
  SELECT *, sum(octet_length(value)) OVER (ORDER BY {{order}}) - octet_length(value) AS before
  FROM (SELECT * FROM entry WHERE (era, seq) {{after}} ORDER BY {{order}} LIMIT $3) AS page
) AS measured WHERE before < {_PAGE_BYTES} ORDER BY {{order}}
"""  # noqa: S608 - constants
_DOWN = {"after": "< ($1, $2)", "order": "era DESC, seq DESC"}
_UP = {"after": "> ($1, $2)", "order": "era, seq"}


class SiteWalks:
    """See ReplicationLog.blobs and entries. Raises SourceUnavailable."""

    def __init__(self, connections: DatabaseConnections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<SiteWalks over {self._connections!r}>"

    async def blobs(self, position: str | None, limit: int) -> Page:
        """See ReplicationLog.blobs."""
        at, now_ms = await self._start(position)
        way = _UP if at.up else _DOWN
        statement = f"{_BLOBS}{way['after']} ORDER BY {way['order']} LIMIT $3"
        rows = await self._connections.ask(statement, at.at, at.name, limit)
        digests = [digest_of_key(key, size) for *_, key, size, _ in rows]
        sources = [source for *_, source in rows]
        pulled = frozenset(
            digest for digest, source in zip(digests, sources, strict=True)
            if source == Source.UPSTREAM
        )  # fmt: skip
        return Page(digests, [], _next(at, rows), pulled, _unused_s(rows, now_ms))

    async def entries(self, position: str | None, limit: int) -> Page:
        """See ReplicationLog.entries. A page with long values has fewer entries."""
        at, now_ms = await self._start(position)
        statement = _ENTRIES.format_map(_UP if at.up else _DOWN)
        rows = await self._connections.ask(statement, at.at, at.name, limit)
        found = [
            entry_of(EntryKey(EntryKind(kind), instance.decode(), name), columns)
            for _, _, _, kind, instance, name, *columns in rows
        ]
        return Page([], found, _next(at, rows), unused_s=_unused_s(rows, now_ms))

    async def _start(self, position: str | None) -> tuple[WalkPosition, int]:
        (now_ms,) = await self._connections.ask_one(_NOW)
        at = WalkPosition.parse(position, 0, now_ms // _HOUR_MS)
        return (at if at.up else at._replace(at=min(at.at, FIRST_KEPT_ERA))), now_ms


def _next(at: WalkPosition, rows: Sequence[Sequence[Any]]) -> str | None:
    if rows:
        era, seq, *_ = rows[-1]
        return str(at._replace(at=era, name=seq))
    return None if at.up else str(at.turned(0, _MARGIN))


def _unused_s(rows: Sequence[Sequence[Any]], now_ms: int) -> list[float]:
    """Return for how long no client has used each: at least, as only the hour is known."""
    return [max(0, now_ms - (hour + 1) * _HOUR_MS) / 1000 for _, _, hour, *_ in rows]
