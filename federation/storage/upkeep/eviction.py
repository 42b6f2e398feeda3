"""Least recently used eviction, in two steps that are safe against every other process.

Candidates are marked first: from then on every process calls them missing, and any use revives
them. After Timing.grace_ms, longer than any lease given before the mark may stay unwritten, those
still untouched are deleted, and only then their files. Nothing leased is ever a candidate, and
nothing that a peer is still to get.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import entries, peer_records
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext
from federation.storage.publishing import remove_stray

_REWIND_S = 10.0
SLICE = 500  # rows of one transaction, so that uploads never wait long for the write lock

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EvictionChoice:
    """What eviction takes next: (accessed, key) of blobs, (accessed, row id) of entries."""

    blobs: tuple[tuple[int, bytes], ...]
    entries: tuple[tuple[int, int], ...]
    size_bytes: int


def choose(
    blobs: Iterable[tuple[int, int, bytes]],
    index: Iterable[tuple[int, int, int]],
    needed_bytes: int,
) -> EvictionChoice:
    """Take the least recently used of both (accessed, size, key or id) until enough is freed."""
    taken_blobs: list[tuple[int, bytes]] = []
    taken_entries: list[tuple[int, int]] = []
    size = 0
    oldest_first: Iterable[tuple[int, int, bytes | int]] = heapq.merge(
        blobs, index, key=lambda item: item[0]
    )
    for accessed, amount, name in oldest_first:
        if size >= needed_bytes:
            break
        size += amount
        if isinstance(name, bytes):
            taken_blobs.append((accessed, name))
        else:
            taken_entries.append((accessed, name))
    return EvictionChoice(tuple(taken_blobs), tuple(taken_entries), size)


@dataclass(slots=True)
class _Marked:
    keys: Sequence[bytes]
    size_bytes: int
    due_ms: int


class Evictor:
    """Used by the process that holds the maintenance lock; step() does one slice."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._marked: list[_Marked] = []
        self.rewind()

    def __repr__(self) -> str:
        return f"<Evictor {sum(len(marked.keys) for marked in self._marked)} marked>"

    @property
    def is_pending(self) -> bool:
        """Whether marked blobs wait for their second look."""
        return bool(self._marked)

    @property
    def pending_bytes(self) -> int:
        """Bytes marked and not yet deleted."""
        return sum(marked.size_bytes for marked in self._marked)

    async def adopt(self) -> None:
        """Take over what a predecessor marked and did not come to delete."""
        keys = await self._core.pool.run(
            lambda: catalogue.marked_keys(self._core.pool.connection())
        )
        due_ms = self._core.now_ms() + self._core.timing.grace_ms
        for at in range(0, len(keys), SLICE):
            self._marked.append(_Marked(keys[at : at + SLICE], 0, due_ms))

    async def forgive(self) -> None:
        """Unmark everything: a process died, and may have leased what is marked."""
        if not self._marked:
            return
        self._marked.clear()
        await self._core.writer.submit(catalogue.unmark_all)
        self.rewind()

    def rewind(self) -> None:
        """Begin with the least recently used again: what was pinned may not be any more."""
        self._blobs_from_ms = 0
        self._entries_from_ms = 0
        self._rewound_s = self._core.clock.monotonic_s()

    async def mark(self, needed_bytes: int) -> int:
        """Mark (and of index entries, delete) one slice; return its bytes, 0 for nothing left.

        Goes on where the last slice ended, and begins again only now and then or when nothing is
        left from there: what is pinned would be passed each time.
        """
        before_ms = self._core.now_ms() - self._core.timing.cutoff_age_ms
        if self._core.clock.monotonic_s() - self._rewound_s > _REWIND_S:
            self.rewind()
        goes_on = self._blobs_from_ms or self._entries_from_ms
        choice = await self._core.pool.run(self._choose, before_ms, needed_bytes)
        if goes_on and not choice.blobs and not choice.entries:
            self.rewind()
            choice = await self._core.pool.run(self._choose, before_ms, needed_bytes)
        if not choice.blobs and not choice.entries:
            return 0
        # The marks are a promise to look again, not a removal: FindMissing says missing at once.
        keys = await self._core.writer.submit(lambda tx: catalogue.mark(tx, choice.blobs))
        self._core.epoch.bump()
        due_ms = self._core.now_ms() + self._core.timing.grace_ms
        if choice.entries:
            count, size = await self._core.writer.submit(
                lambda tx: entries.delete(tx, [row_id for _, row_id in choice.entries], before_ms)
            )
            self._count(count, size)
        if keys:
            self._marked.append(_Marked(keys, choice.size_bytes, due_ms))
        return choice.size_bytes

    def _choose(self, before_ms: int, needed_bytes: int) -> EvictionChoice:
        connection = self._core.pool.connection()
        pins = peer_records.pins(peer_records.read(connection))
        blobs = catalogue.eviction_candidates(
            connection, self._blobs_from_ms, before_ms, pins, SLICE
        )
        index = entries.eviction_candidates(
            connection, self._entries_from_ms, before_ms, pins, SLICE
        )
        choice = choose(blobs, index, needed_bytes)
        if choice.blobs or not blobs:
            self._blobs_from_ms = choice.blobs[-1][0] if choice.blobs else before_ms
        if choice.entries or not index:
            self._entries_from_ms = choice.entries[-1][0] if choice.entries else before_ms
        return choice

    async def has_pinned(self) -> bool:
        """Whether something that no client uses is kept for a peer; when mark found nothing."""
        before_ms = self._core.now_ms() - self._core.timing.cutoff_age_ms
        return await self._core.pool.run(self._has_pinned, before_ms)

    def _has_pinned(self, before_ms: int) -> bool:
        connection = self._core.pool.connection()
        if peer_records.pins(peer_records.read(connection)) == peer_records.NO_PINS:
            return False
        return catalogue.any_unleased(connection, before_ms) or entries.any_unleased(
            connection, before_ms
        )

    async def sweep_due(self) -> int:
        """Delete what was marked long enough ago and is still untouched; return freed bytes."""
        freed = 0
        while self._marked and self._marked[0].due_ms <= self._core.now_ms():
            freed += await self._delete(self._marked[0])
            self._marked.pop(0)
        return freed

    async def _delete(self, marked: _Marked) -> int:
        before_ms = self._core.now_ms() - self._core.timing.cutoff_age_ms
        gone = await self._core.writer.submit(
            lambda tx: catalogue.delete_marked(tx, marked.keys, before_ms)
        )
        self._core.epoch.bump()
        files = [row for row in gone if not row.inline]
        if files:
            await self._core.writer.submit(lambda tx: self._unlink(tx, files))
        size = sum(row.size_bytes for row in gone)
        self._count(len(gone), size)
        return size

    def _unlink(self, transaction: Transaction, rows: list[BlobRow]) -> None:
        """Remove files, each only while no new row claims it."""
        for row in rows:
            digest = catalogue.digest_of_key(row.key, row.size_bytes)
            path = self._core.directory.blob_path(digest)
            remove_stray(transaction, self._core.directory, path, row.key)

    def _count(self, objects: int, size_bytes: int) -> None:
        self._core.metrics.evicted.inc(objects)
        self._core.metrics.evicted_bytes.inc(size_bytes)
        if objects:
            _log.debug("evicted", objects=objects, size_bytes=size_bytes)
