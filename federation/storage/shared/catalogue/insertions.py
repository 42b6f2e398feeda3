"""Gathers blobs that arrive while a transaction is under way, and inserts them in the next one.

One transaction at a time costs the database, and the lock of the site, much less than one for each
upload. The flush comes after it, so that the next transaction need not wait for the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple
from uuid import UUID

from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable, StorageFailed
from federation.core.provenance import Provenance
from federation.storage.catalogue.blobs import keys_of
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.arrays import NumberArray
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.database_connection import Statement
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.rows import Insertion, NewBlob
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_watch import SiteWatch
from federation.storage.shared.catalogue.texts import clean, joined

_BLOBS_MAX = 2000  # of a transaction; a single request may have more
_BYTES_MAX = 8 * 2**20
# More is inserted while the disk is waited for. Less is gathered until then, for one transaction.
_FLUSHED_AT_ONCE_BYTES = 2**18
_INSERT_NEW = """
SELECT newest, token FROM federation_insert_new($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_INSERT = """
SELECT outcomes, newest, token
FROM federation_insert($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""


class _Inserted(NamedTuple):
    outcomes: dict[bytes, Insertion] | None  # None: all are stored
    newest: int
    life: UUID


class _Request(NamedTuple):
    blobs: dict[bytes, NewBlob]  # by key
    data_bytes: int
    done: asyncio.Future[_Inserted]


class _Rows(NamedTuple):
    """The blobs of one transaction in the order of their keys."""

    keys: list[bytes]
    blobs: list[NewBlob]
    provenances: list[Provenance]
    came: list[int] | None  # which of these each blob has, 1: the first; None: all the first

    @classmethod
    def of(cls, requests: Sequence[_Request]) -> _Rows:
        items = sorted(chain.from_iterable(request.blobs.items() for request in requests))
        blobs = [blob for _, blob in items]
        first = blobs[0].provenance
        numbers = {first: 1}
        came = None
        if any(blob.provenance is not first for blob in blobs):
            came = [numbers.setdefault(blob.provenance, len(numbers) + 1) for blob in blobs]
        return cls([key for key, _ in items], blobs, list(numbers), came)

    @property
    def has_objects(self) -> bool:
        return any(blob.data is None for blob in self.blobs)

    def provenance_columns(self) -> tuple[NumberArray, list[str], list[str], NumberArray]:
        """Sources, vias, origins, and the ms since the last use, of each provenance."""
        return (
            arrays.numbers([int(each.source) for each in self.provenances]),
            [joined(each.via) for each in self.provenances],
            [clean(each.origin) for each in self.provenances],
            arrays.numbers([int(each.unused_s * 1000) for each in self.provenances]),
        )


class Insertions:
    """Inserts blobs into the catalogue. Used from the event loop."""

    def __init__(
        self,
        connections: DatabaseConnections,
        flusher: CommitFlusher,
        watch: SiteWatch,
        settings: CatalogueSettings,
        clock: Clock,
    ) -> None:
        self.quota_bytes: int | None = None  # of the site; None: no limit
        self._connections = connections
        self._flusher = flusher
        self._watch = watch
        self._settings = settings
        self._clock = clock
        self._queue: deque[_Request] = deque()
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Insertions, {len(self._queue)} requests wait>"

    async def insert(self, blobs: Sequence[NewBlob]) -> list[Insertion]:
        """See SiteBlobs.insert."""
        if not blobs:
            return []
        keys = keys_of([blob.digest for blob in blobs])
        size = sum(len(blob.data or b"") for blob in blobs)
        done: asyncio.Future[_Inserted] = asyncio.get_running_loop().create_future()
        self._queue.append(_Request(dict(zip(keys, blobs, strict=True)), size, done))
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._run())
        try:
            inserted = await done
            await self._flusher.cover(inserted.newest, inserted.life)
        except SourceUnavailable as error:
            raise StorageFailed(f"nothing is stored for certain: {error}") from error
        self._watch.note_stored(inserted.newest)
        if inserted.outcomes is None:
            return [Insertion.STORED] * len(keys)
        return [inserted.outcomes[key] for key in keys]

    async def close(self) -> None:
        """Drop what waits."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for request in self._queue:
            request.done.cancel()

    async def _run(self) -> None:
        while self._queue:
            requests = self._take()
            try:
                inserted = await self._insert(requests)
            except Exception as error:  # noqa: BLE001 - the callers get it
                for request in requests:
                    if not request.done.done():
                        request.done.set_exception(error)
            else:
                for request in requests:
                    if not request.done.done():
                        request.done.set_result(inserted)

    def _take(self) -> list[_Request]:
        """Take requests for one transaction: no blob twice, within the limits."""
        taken = [self._queue.popleft()]
        keys = set(taken[0].blobs)
        size = taken[0].data_bytes
        while self._queue:
            following = self._queue[0]
            size += following.data_bytes
            is_apart = keys.isdisjoint(following.blobs)
            if not is_apart or size > _BYTES_MAX or len(keys) >= _BLOBS_MAX:
                break
            keys |= following.blobs.keys()
            taken.append(self._queue.popleft())
        return taken

    async def _insert(self, requests: Sequence[_Request]) -> _Inserted:
        rows = _Rows.of(requests)
        inserted = None if rows.has_objects else await self._insert_new(rows)
        return inserted or await self._compare(rows)

    async def _insert_new(self, rows: _Rows) -> _Inserted | None:
        """Insert blobs as if none of them were held; None: nothing was inserted, compare them."""
        ends = list(accumulate(blob.digest.size_bytes for blob in rows.blobs))
        values = (
            arrays.keys(rows.keys),
            arrays.numbers(ends),
            arrays.blobs([blob.data for blob in rows.blobs]),
            arrays.numbers(rows.came) if rows.came else None,
            *rows.provenance_columns(),
            self._clock.wall_s(),
            self.quota_bytes,
        )
        if ends[-1] <= _FLUSHED_AT_ONCE_BYTES:
            newest, life = await self._flusher.flush_behind(Statement(_INSERT_NEW, values))
        else:
            newest, life = await self._connections.ask_one(_INSERT_NEW, *values)
        return None if newest is None else _Inserted(None, newest, life)

    async def _compare(self, rows: _Rows) -> _Inserted:
        """Insert those blobs that are not held and have room."""
        outcomes, newest, life = await self._connections.ask_one(
            _INSERT,
            arrays.keys(rows.keys),
            arrays.numbers([blob.digest.size_bytes for blob in rows.blobs]),
            arrays.blobs([blob.data for blob in rows.blobs]),
            arrays.blobs([blob.attempt or None for blob in rows.blobs]),
            arrays.blobs([blob.parts for blob in rows.blobs]),
            arrays.numbers(rows.came or [1] * len(rows.blobs)),
            *rows.provenance_columns(),
            self._clock.wall_s(),
            self._settings.granularity_ms,
            self._settings.lease_ms,
            self.quota_bytes,
        )
        if outcomes is None:
            return _Inserted(None, newest, life)
        found = dict(zip(rows.keys, map(Insertion, outcomes), strict=True))
        return _Inserted(found, newest, life)
