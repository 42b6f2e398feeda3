"""Purge records in memory, beside the blobs and entries of a MemoryStorage."""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping, Sequence

from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.index import Entry, EntryKey, Stamp
from federation.core.purges import Purge, Purgeable, PurgeOutcome, PurgePage
from tests.support.fakes import MemoryEntries, MemoryStore


class MemoryPurges:
    """See federation.core.purges.Purges."""

    def __init__(
        self,
        blobs: MutableMapping[Digest, bytes],
        entries: MutableMapping[EntryKey, Entry],
        drop: Callable[[Purgeable], None],
        tick: Callable[[Stamp], Stamp],
        now_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """drop: removes what is held; tick: returns a stamp of now, later than the given one."""
        self._now_s = now_s
        self._used_s: dict[Purgeable, float] = {}
        self.records: dict[Purgeable, tuple[int, Purge]] = {}
        self.newest = 0
        self._blobs = blobs
        self._entries = entries
        self._drop = drop
        self._tick = tick

    @classmethod
    def of(cls, store: MemoryStore, index: MemoryEntries) -> MemoryPurges:
        """Return those of a store and an index whose entries have no stamps."""

        def drop(thing: Purgeable) -> None:
            if isinstance(thing, Digest):
                store.remove(thing)
            else:
                del index.entries[thing]

        return cls(store.blobs, index.entries, drop, lambda above: Stamp(above.ticks + 1, "here"))

    async def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        return [self.purge_one(thing, label, by) for thing, label in things]

    def purge_one(self, thing: Purgeable, label: str = "", by: str = "") -> PurgeOutcome:
        if isinstance(thing, Digest) and thing.is_empty:
            raise InvalidRequest("the empty blob is always held")
        old = self.records.get(thing)
        stamp = self._tick(old[1].stamp if old else Stamp())
        size = self._size(thing)
        self._store(Purge(thing, stamp, label, by))
        return PurgeOutcome(thing, label, size or 0, size is not None)

    async def apply(self, purges: Sequence[Purge]) -> int:
        return sum(map(self.apply_one, purges))

    def apply_one(self, purge: Purge) -> bool:
        old = self.records.get(purge.thing)
        if old is not None and old[1].stamp >= purge.stamp:
            return False
        self._tick(purge.stamp)
        self._store(purge)
        return True

    def allow(self, digest: Digest) -> None:
        """Take note that a client pushes the blob."""
        if self.has(digest):
            _, purge = self.records[digest]
            self._store(purge._replace(stamp=self._tick(purge.stamp), is_allowed=True))

    def has(self, thing: Purgeable) -> bool:
        """Whether the name is purged."""
        found = self.records.get(thing)
        if found is None or found[1].is_allowed:
            return False
        held = None if isinstance(thing, Digest) else self._entries.get(thing)
        is_purged = held is None or held.stamp < found[1].stamp
        if is_purged:
            self._used_s[thing] = self._now_s()
        return is_purged

    def bars(self, key: EntryKey, stamp: Stamp) -> bool:
        """Whether a value with this stamp is older than the record of its name."""
        found = self.records.get(key)
        is_older = found is not None and stamp <= found[1].stamp
        if is_older:
            self._used_s[key] = self._now_s()
        return is_older

    def forget(self, keep_s: float, told: int) -> None:
        """Remove records that were not used for keep_s, of those with numbers up to told."""
        before_s = self._now_s() - keep_s
        for thing, (number, _) in list(self.records.items()):
            if number <= told and self._used_s[thing] < before_s:
                del self.records[thing]

    async def page(self, after: int, limit: int) -> PurgePage:
        rows = sorted((row for row in self.records.values() if row[0] > after), key=lambda r: r[0])
        rows = rows[:limit]
        return PurgePage([purge for _, purge in rows], rows[-1][0] if rows else after)

    async def blobs_among(self, digests: Collection[Digest]) -> set[Digest]:
        return {digest for digest in digests if self.has(digest)}

    async def entries_among(self, keys: Collection[EntryKey]) -> set[EntryKey]:
        return {key for key in keys if self.has(key)}

    def _store(self, purge: Purge) -> None:
        self.newest += 1
        self.records[purge.thing] = self.newest, purge
        self._used_s[purge.thing] = self._now_s()
        if self.has(purge.thing) and self._size(purge.thing) is not None:
            self._drop(purge.thing)

    def _size(self, thing: Purgeable) -> int | None:
        if isinstance(thing, Digest):
            return None if thing not in self._blobs else thing.size_bytes
        held = self._entries.get(thing)
        return None if held is None else len(held.value) + len(held.label.encode())
