"""The finder of a node that pulls from nobody, in as few lines as that takes."""

from __future__ import annotations

from federation.services.closure import ClosureChecker
from federation.services.finder import Asked
from federation.store import Entry, Index


class LocalFinder:
    """Finds what was pushed here. See federation.services.finder.Finder."""

    def __init__(self, index: Index, closures: ClosureChecker) -> None:
        self._index = index
        self._closures = closures

    async def find(self, asked: Asked) -> Entry | None:
        for entry in await self._index.get(asked.keys):
            if (
                entry is not None
                and await asked.acceptable(entry)
                and await self._closures.complete(entry)
            ):
                return entry
        return None
