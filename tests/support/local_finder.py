"""The finder of a node that pulls from nobody, in as few lines as that takes."""

from __future__ import annotations

from collections.abc import Sequence

from federation.closure.checker import ClosureChecker
from federation.core.index import Entry, EntryKey, Index
from federation.upstream.entry_finder import EntryQuery


class LocalFinder:
    """Finds what was pushed here. See federation.upstream.entry_finder.Finder."""

    def __init__(self, index: Index, closures: ClosureChecker) -> None:
        self._index = index
        self._closures = closures

    def recall(self, key: EntryKey) -> Entry | None:
        entry = self._index.recall(key)
        return entry if entry is not None and self._closures.is_certain(entry) else None

    def misses_at_once(self, keys: Sequence[EntryKey]) -> bool:
        return self._index.lacks_at_once(keys)

    async def keys_like(self, prefixes: Sequence[EntryKey]) -> list[EntryKey]:
        return [each.key for each in await self._index.get_like(prefixes)]

    async def find(self, query: EntryQuery) -> Entry | None:
        for entry in await self._index.get(query.keys):
            if (
                entry is not None
                and await query.acceptable(entry)
                and await self._closures.complete(entry)
            ):
                return entry
        return None
