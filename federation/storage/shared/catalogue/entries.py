"""The site's index entries: action results and assets.

Which value of a name wins is decided here, by storage.catalogue.hlc, from a row that was read
without a lock. The database stores the result if that row is still the same; else it is decided
again. So the lock of the site is held for one statement, and never while a node thinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from federation.core import uses
from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable, StorageFailed
from federation.core.index import LIKE_MAX, NO_STAMP, Entry, EntryKey
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.replication_log import EntryHead
from federation.core.uses import Use
from federation.storage.catalogue import hlc
from federation.storage.catalogue.hlc import Held, Verdict
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.entry_rows import (
    COLUMNS,
    StoredEntry,
    entry_of,
    expiry_of,
    key_arrays,
)
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.insertions import Insertions
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_watch import SiteWatch
from federation.storage.shared.catalogue.texts import clean, joined

_TRIES = 20  # of a change that others were faster than
_HIGHEST = b"\xff" * 9  # above whatever follows the hash in the name of an action result
_GET = f"SELECT at, seq, {COLUMNS} FROM federation_entries($1, $2, $3, $4, $5)"  # noqa: S608
_LIKE = f"""
SELECT k.at, e.name, {COLUMNS}
FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS k(kind, instance, low, high, at)
CROSS JOIN LATERAL (
  SELECT * FROM entry
  WHERE kind = k.kind AND instance = k.instance AND name BETWEEN k.low AND k.high LIMIT {LIKE_MAX}
) AS e
"""  # noqa: S608 - constants
_HEADS = """
SELECT k.at, e.seq, e.label, octet_length(e.value), e.expires, e.source
FROM unnest($1, $2, $3) WITH ORDINALITY AS k(kind, instance, name, at)
JOIN entry e ON e.kind = k.kind AND e.instance = k.instance AND e.name = k.name
"""
_PUT = """
SELECT is_done, newest, token FROM federation_put(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""
_STORE, _RENEW, _TOUCH = 1, 2, 3  # p_ways of federation_put


class _Change(NamedTuple):
    """What to do with an entry, given the row that was read."""

    entry: Entry
    seen: int  # seq of that row; 0: there was none
    way: int
    ticks: int
    node: str | None  # None: the database gives the stamp, of at least these ticks


class SiteIndex:
    """See federation.core.index.Index."""

    def __init__(
        self,
        connections: DatabaseConnections,
        flusher: CommitFlusher,
        watch: SiteWatch,
        insertions: Insertions,
        settings: CatalogueSettings,
        clock: Clock,
        site_id: str,
    ) -> None:
        """insertions: has the quota."""
        self._connections = connections
        self._flusher = flusher
        self._watch = watch
        self._insertions = insertions
        self._settings = settings
        self._clock = clock
        self._site_id = site_id

    def __repr__(self) -> str:
        return f"<SiteIndex over {self._connections!r}>"

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        """See Index."""
        rows = await self.rows(keys, uses.current())
        return [row and row.entry for row in rows]

    async def rows(self, keys: Sequence[EntryKey], use: Use) -> list[StoredEntry | None]:
        """Return each entry with its number in the change log; None where there is none."""
        found: list[StoredEntry | None] = [None] * len(keys)
        if not keys:
            return found
        wanted = (*key_arrays(keys), int(use), self._settings.granularity_ms)
        for at, seq, *columns in await self._connections.ask(_GET, *wanted):
            found[at - 1] = StoredEntry(seq, entry_of(keys[at - 1], columns))
        return found

    async def heads(self, keys: Sequence[EntryKey]) -> list[EntryHead | None]:
        """See ReplicationLog.heads_at."""
        found: list[EntryHead | None] = [None] * len(keys)
        if not keys:
            return found
        for at, seq, label, size, expires_s, source in await self._connections.ask(
            _HEADS, *key_arrays(keys)
        ):
            expires_at_s = None if expires_s == float("inf") else expires_s
            key = keys[at - 1]
            found[at - 1] = EntryHead(seq, key, label.decode(), size, expires_at_s, Source(source))
        return found

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        """See Index."""
        if not keys:
            return []
        high = arrays.blobs([key.name + _HIGHEST for key in keys])
        rows = await self._connections.ask(_LIKE, *key_arrays(keys), high)
        found = [entry_of(keys[at - 1]._replace(name=name), columns) for at, name, *columns in rows]
        return sorted(found, key=lambda entry: (entry.stamp, entry.stored_at_s), reverse=True)

    def recall(self, key: EntryKey) -> Entry | None:
        """See Index: another node may have stored another value, so memory says nothing."""
        del key
        return None

    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """See Index: what is absent is known to the database alone."""
        del keys
        return False

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        """See Index."""
        for _ in range(_TRIES):
            wall_s = self._clock.wall_s()
            one_each = self._one_each(entries, provenance.source, wall_s)
            rows = await self._held([entry.key for entry in one_each])
            if await self._change(one_each, rows, provenance, wall_s):
                return
        raise StorageFailed("other nodes kept changing the same names; nothing was stored")

    async def put_over(
        self, entry: Entry, held: Entry | None, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See Index."""
        for _ in range(_TRIES):
            rows = await self._held([entry.key])
            found = rows[0] and rows[0].entry
            if _identity(found) != _identity(held):
                return False
            if await self._change([entry], rows, provenance, self._clock.wall_s()):
                return True
        raise StorageFailed("other nodes kept changing the same name; nothing was stored")

    async def _held(self, keys: Sequence[EntryKey]) -> list[StoredEntry | None]:
        try:
            return await self.rows(keys, Use.PEEK)
        except SourceUnavailable as error:
            raise StorageFailed(str(error)) from error

    def _one_each(self, entries: Sequence[Entry], source: Source, wall_s: float) -> list[Entry]:
        """Return one entry for each key, in the order of keys: the one that wins."""
        winners: dict[EntryKey, Entry] = {}
        for entry in entries:
            if hlc.is_dated(entry, source):
                hlc.check(entry.stamp, wall_s, self._settings.drift_s)
            before = winners.get(entry.key)
            held = before and Held(before.value, before.expires_at_s, source, before.stamp)
            if hlc.judge(held, entry, source, wall_s, self._settings.drift_s) is Verdict.TAKE:
                winners[entry.key] = entry
        return [winners[key] for key in sorted(winners)]

    async def _change(
        self,
        entries: Sequence[Entry],
        rows: Sequence[StoredEntry | None],
        provenance: Provenance,
        wall_s: float,
    ) -> bool:
        """Store what wins over these rows, durably; False if one of them has changed.

        Raises StorageFull, StorageFailed, InvalidRequest.
        """
        changes = [
            self._decide(entry, row, provenance.source, wall_s)
            for entry, row in zip(entries, rows, strict=True)
        ]
        wanted = [change for change in changes if change is not None]
        met = [each.stamp.ticks for each in entries if hlc.is_dated(each, provenance.source)]
        if not wanted and not met:
            return True
        try:
            is_done, newest, life = await self._connections.ask_one(
                _PUT, *self._arguments(wanted, provenance, max(met, default=0), wall_s)
            )
            if not is_done:
                return False
            await self._flusher.cover(newest, life)
        except SourceUnavailable as error:
            raise StorageFailed(f"nothing is stored for certain: {error}") from error
        self._watch.note_stored(newest)
        return True

    def _decide(
        self, entry: Entry, row: StoredEntry | None, source: Source, wall_s: float
    ) -> _Change | None:
        """Return what to do with an entry; None: it is let fall. Raises InvalidRequest."""
        old = row and row.entry
        held = old and Held(old.value, old.expires_at_s, old.source, old.stamp)
        dated = hlc.date(held, entry, source, 0, self._site_id, wall_s, self._settings.drift_s)
        seen = row.seq if row else 0
        if dated.verdict is Verdict.LET_FALL:
            return None
        if dated.verdict is Verdict.RENEW:
            way = _TOUCH if hlc.is_dated(entry, source) else _RENEW
            return _Change(entry, seen, way, dated.stamp.ticks, dated.stamp.node)
        brings_stamp = hlc.is_dated(entry, source) or dated.stamp == NO_STAMP
        node = dated.stamp.node if brings_stamp else None
        return _Change(entry, seen, _STORE, dated.stamp.ticks, node)

    def _arguments(
        self, changes: Sequence[_Change], provenance: Provenance, met: int, wall_s: float
    ) -> tuple[object, ...]:
        entries = [change.entry for change in changes]
        drift_s = self._settings.drift_s
        return (
            *key_arrays([entry.key for entry in entries]),
            arrays.blobs([entry.value for entry in entries]),
            arrays.blobs([entry.label.encode() for entry in entries]),
            [expiry_of(entry) for entry in entries],
            arrays.numbers([change.seen for change in changes]),
            arrays.numbers([change.way for change in changes]),
            arrays.numbers([change.ticks for change in changes]),
            [change.node for change in changes],
            int(provenance.source),
            joined(provenance.via),
            clean(provenance.origin),
            int(provenance.unused_s * 1000),
            met,
            hlc.ticks_at(wall_s + drift_s),
            hlc.ticks_at(wall_s + drift_s / 2),
            wall_s,
            self._insertions.quota_bytes,
        )


def _identity(entry: Entry | None) -> tuple[bytes, tuple[int, str]] | None:
    """Return what tells a value from an earlier or later one under its key."""
    return None if entry is None else (entry.value, entry.stamp)
