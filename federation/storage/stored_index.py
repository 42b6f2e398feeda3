"""Index entries of local storage: reads from the cache or the catalogue, writes in transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from federation.core import uses
from federation.core.errors import StorageFull
from federation.core.index import Entry, EntryKey
from federation.core.provenance import Provenance
from federation.core.uses import Use
from federation.storage.catalogue import entries as catalogue
from federation.storage.catalogue.entries import EntryRow
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext
from federation.storage.entry_age import without_expired
from federation.storage.entry_cache import EntryCache

_T = TypeVar("_T")

_FULL_FOR_MS = 10_000
_FEW = 4  # entries are looked up on the event loop


class StoredIndex:
    """See federation.core.index.Index."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._cache = EntryCache(core.entry_changes, core.now_ms)

    def __repr__(self) -> str:
        return f"<StoredIndex {self._cache!r}>"

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        """See Index. Raises SourceUnavailable."""
        rows = self._cache.look_up(keys)
        if None in rows:
            rows = await self._read(keys, rows)
        self._note_uses(zip(keys, rows, strict=True))
        return [row and row.entry for row in rows]

    def recall(self, key: EntryKey) -> Entry | None:
        """See Index."""
        (row,) = self._cache.look_up((key,))
        if row is None:
            return None
        self._note_uses(((key, row),))
        return row.entry

    def _note_uses(self, rows: Iterable[tuple[EntryKey, EntryRow | None]]) -> None:
        if uses.current() is not Use.CLIENT:
            return
        now_ms = self._core.now_ms()
        renew_before_ms = now_ms - self._core.timing.granularity_ms
        for key, row in rows:
            if row is not None and row.used_ms < renew_before_ms:
                self._core.touches.entry(row.id, now_ms)
                self._cache.touched(key, now_ms)

    async def _read(
        self, keys: Sequence[EntryKey], hot: Sequence[EntryRow | None]
    ) -> list[EntryRow | None]:
        """Read from the catalogue what is not cached."""
        rest = [key for key, row in zip(keys, hot, strict=True) if row is None]
        try:
            found = self._get_at_once(rest)
            if found is None:
                found = await self._core.pool.query(catalogue.get, rest)
        except UNREADABLE as error:
            raise self._core.catalogue_unreadable(error) from error
        if uses.current() is Use.CLIENT:
            for key, row in zip(rest, found, strict=True):
                if row is not None:
                    self._cache.keep(key, row)
        read = iter(found)
        return [next(read) if row is None else row for row in hot]

    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """See Index."""
        if not 0 < len(keys) <= _FEW:
            return False
        return self._core.resident.look(lambda at: catalogue.has_any(at, keys)) is False

    def _get_at_once(self, keys: Sequence[EntryKey]) -> list[EntryRow | None] | None:
        """Return the rows if that needs no thread; see ResidentCatalogue."""
        if len(keys) > _FEW:
            return None
        return self._core.resident.look(lambda at: catalogue.get_small(at, keys))

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        """See Index. Raises SourceUnavailable."""
        try:
            return await self._core.pool.run(self._get_like, keys)
        except UNREADABLE as error:
            raise self._core.catalogue_unreadable(error) from error

    def _get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        return catalogue.get_like(self._core.pool.connection(), keys)

    async def put(self, entries: Sequence[Entry], provenance: Provenance) -> None:
        """See Index.

        Also raises StorageFull for a while after an upload was refused: BuildStream takes a full
        cache's refusal of blobs for "already there" and pushes the name nevertheless, so only a
        refusal here tells it that the cache is full.
        """
        entries = await without_expired(self._core, entries, provenance)
        if entries:
            await self._write(entries, lambda into: catalogue.put(into, entries, provenance))

    async def put_over(self, entry: Entry, held: Entry | None, provenance: Provenance) -> bool:
        """See Index. Also raises StorageFull as put() does."""
        return await self._write(
            [entry], lambda into: catalogue.put_over(into, entry, held, provenance)
        )

    async def _write(self, entries: Sequence[Entry], work: Callable[[Transaction], _T]) -> _T:
        self._core.directory.volume.check_writable()
        # See decisions, "A node that refused an upload for want of room also refuses names for a
        # while".
        refused_ms = self._core.refused_ms
        if refused_ms is not None and self._core.now_ms() - refused_ms < _FULL_FOR_MS:
            raise StorageFull("this node is full and refused an upload a moment ago; try again")
        try:
            result = await self._core.writer.submit(
                work, sum(len(entry.value) for entry in entries)
            )
        except StorageFull:
            self._core.note_refusal(sum(catalogue.cost_of(entry) for entry in entries))
            raise
        # Whoever has pushed must find the new value with the next look.
        self._cache.catch_up()
        return result
