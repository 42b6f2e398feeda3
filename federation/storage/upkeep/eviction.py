"""Evicts the least recently used objects, in two steps that are safe against other processes.

First, candidates are marked: from then on every process reports them missing, and any use unmarks
them. After Timing.grace_ms (longer than a lease given before the mark may stay unwritten), those
that are still untouched are deleted, and then their files. Objects that are leased, or that a peer
still has to get, are never candidates, nor is what a pin keeps, which is in other indexes. What an
upstream can provide again is evicted first.

The mark is a time in the row, so it does not matter which process made it. The writer renames the
files; they are removed after its transaction.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import entry_removal, eviction_rows, peer_records
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.catalogue.eviction_rows import Marked
from federation.storage.context import StorageContext
from federation.storage.upkeep.discarding import Discarder

_REWIND_S = 10.0
_MARKED_AT_ONCE = 500  # rows per transaction, so that uploads never wait long for the write lock
_DELETED_AT_ONCE = 100
_NONE = Marked(0, 0, 0)

_log = structlog.get_logger(__name__)


class EvictionChoice(NamedTuple):
    """What to evict next: (used, key) of blobs, (used, row id) of entries; used in store ms."""

    blobs: tuple[tuple[int, bytes], ...]
    entries: tuple[tuple[int, int], ...]
    size_bytes: int


def choose(
    blobs: Iterable[tuple[int, int, bytes]],
    index: Iterable[tuple[int, int, int]],
    needed_bytes: int,
) -> EvictionChoice:
    """Choose the least recently used of blobs and entries until needed_bytes are freed.

    blobs, index: (used, cost, key) and (used, cost, row id), each sorted by used (store ms).
    """
    taken_blobs: list[tuple[int, bytes]] = []
    taken_entries: list[tuple[int, int]] = []
    size = 0
    oldest_first: Iterable[tuple[int, int, bytes | int]] = heapq.merge(
        blobs, index, key=lambda item: item[0]
    )
    for used, amount, name in oldest_first:
        if size >= needed_bytes:
            break
        size += amount
        if isinstance(name, bytes):
            taken_blobs.append((used, name))
        else:
            taken_entries.append((used, name))
    return EvictionChoice(tuple(taken_blobs), tuple(taken_entries), size)


@dataclass(slots=True)
class _Walk:
    """How far the search for candidates of one kind has come, in order of last use."""

    pulled: bool
    blobs_from_ms: int = 0
    entries_from_ms: int = 0

    def begin(self) -> None:
        self.blobs_from_ms = self.entries_from_ms = 0


class Evictor:
    """Marks and deletes in slices. Used by the process that holds the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._discarder = Discarder(core)
        self._walks = (_Walk(pulled=True), _Walk(pulled=False))
        self._marked = _NONE
        self.rewind()

    def __repr__(self) -> str:
        return f"<Evictor {self._marked.blobs} marked>"

    @property
    def is_pending(self) -> bool:
        """Whether marked blobs wait for their deletion, as of the last load_marks()."""
        return bool(self._marked.blobs)

    @property
    def pending_bytes(self) -> int:
        """How many bytes of the quota the marked blobs take."""
        return self._marked.cost_bytes

    async def load_marks(self) -> None:
        """Read from the catalogue what is marked, by any process."""
        pool = self._core.pool
        self._marked = await pool.run(lambda: eviction_rows.marked(pool.connection()))

    async def unmark_all(self) -> None:
        """Unmark everything: a process was killed, and may have leased what is marked."""
        await self.load_marks()
        if not self._marked.blobs:
            return
        await self._core.writer.submit(eviction_rows.unmark_all)
        self._marked = _NONE
        self.rewind()

    def rewind(self) -> None:
        """Search from the least recently used object again: peers may have got what they lacked."""
        for walk in self._walks:
            walk.begin()
        self._rewound_s = self._core.clock.monotonic_s()

    async def mark(self, needed_bytes: int) -> int:
        """Mark blobs and delete index entries, one slice; return its bytes, 0 if nothing is left.

        Continues where the last slice ended, so that what peers lack is not passed over again each
        time. Starts over every 10 s, or when nothing is left.
        """
        before_ms = self._core.now_ms() - self._core.timing.cutoff_age_ms
        if self._core.clock.monotonic_s() - self._rewound_s > _REWIND_S:
            self.rewind()
        goes_on = any(walk.blobs_from_ms or walk.entries_from_ms for walk in self._walks)
        choice = await self._core.pool.run(self._choose, before_ms, needed_bytes)
        # From the beginning once more, before it is said that nothing is left.
        if goes_on and not choice.blobs and not choice.entries:
            self.rewind()
            choice = await self._core.pool.run(self._choose, before_ms, needed_bytes)
        if not choice.blobs and not choice.entries:
            return 0
        # Marked blobs are checked again before they are deleted, but count as missing from now on.
        await self._core.writer.submit(lambda tx: eviction_rows.mark(tx, choice.blobs, before_ms))
        self._core.epoch.bump()
        if choice.entries:
            count, size = await self._core.writer.submit(
                lambda tx: entry_removal.delete(
                    tx, [row_id for _, row_id in choice.entries], before_ms
                )
            )
            self._count(count, size)
        await self.load_marks()
        return choice.size_bytes

    def _choose(self, before_ms: int, needed_bytes: int) -> EvictionChoice:
        connection = self._core.pool.connection()
        holds = peer_records.holds(peer_records.read(connection))
        choice = EvictionChoice((), (), 0)
        for walk in self._walks:
            blobs = eviction_rows.eviction_candidates(
                connection,
                walk.blobs_from_ms,
                before_ms,
                holds,
                _MARKED_AT_ONCE,
                pulled=walk.pulled,
            )
            index = entry_removal.eviction_candidates(
                connection,
                walk.entries_from_ms,
                before_ms,
                holds,
                _MARKED_AT_ONCE,
                pulled=walk.pulled,
            )
            choice = choose(blobs, index, needed_bytes)
            # On to the last one taken; where none was found at all, to the end of what may be
            # evicted.
            if choice.blobs or not blobs:
                walk.blobs_from_ms = choice.blobs[-1][0] if choice.blobs else before_ms
            if choice.entries or not index:
                walk.entries_from_ms = choice.entries[-1][0] if choice.entries else before_ms
            # Pulled objects first: the others are looked at only when no pulled one is left.
            if choice.blobs or choice.entries:
                break
        return choice

    async def holds_for_peers(self) -> bool:
        """Return whether unleased objects are held for peers, and evictable but for that.

        Call it after mark() has found nothing.
        """
        before_ms = self._core.now_ms() - self._core.timing.cutoff_age_ms
        return await self._core.pool.run(self._holds_for_peers, before_ms)

    def _holds_for_peers(self, before_ms: int) -> bool:
        connection = self._core.pool.connection()
        if peer_records.holds(peer_records.read(connection)) == peer_records.NO_HOLDS:
            return False
        return eviction_rows.any_unleased(connection, before_ms) or entry_removal.any_unleased(
            connection, before_ms
        )

    async def sweep_due(self) -> int:
        """Delete what was marked grace_ms ago and not touched since; return the freed bytes."""
        await self.load_marks()
        freed = 0
        while self._marked.blobs:
            marked_before_ms = self._core.now_ms() - self._core.timing.grace_ms
            if self._marked.oldest_ms > marked_before_ms:
                break
            gone = await self._delete(marked_before_ms)
            freed += sum(row.size_bytes for row in gone)
            await self.load_marks()
            if not gone:  # the rest was marked too recently
                break
        return freed

    async def _delete(self, marked_before_ms: int) -> list[BlobRow]:
        before_ms = self._core.now_ms() - self._core.timing.cutoff_age_ms
        gone = await self._core.writer.submit(
            lambda tx: eviction_rows.delete_marked(
                tx, marked_before_ms, before_ms, _DELETED_AT_ONCE
            )
        )
        self._core.epoch.bump()
        self._count(len(gone), sum(row.size_bytes for row in gone))
        digests = [
            catalogue.digest_of_key(row.key, row.size_bytes) for row in gone if not row.inline
        ]
        if digests:
            await self._discarder.discard_blobs(digests)
        return gone

    def _count(self, objects: int, size_bytes: int) -> None:
        self._core.metrics.evicted.inc(objects)
        self._core.metrics.evicted_bytes.inc(size_bytes)
        if objects:
            _log.debug("evicted", objects=objects, size_bytes=size_bytes)
