"""Finding the index entry that answers a request: the seam between services and where entries are.

An entry answers only with its complete closure, which finding it leases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from federation.services.closure import ClosureChecker
from federation.store import Entry, EntryKey, Index
from federation.upstream.names import AskUpstream

_KEYS = 16  # looked up at once; clients name one or two URIs, and entries may be megabytes


class Asked(NamedTuple):
    """What a request wants: any one of keys, in this order, that is acceptable.

    ask puts the same question to an upstream; its answer has one of keys.
    """

    keys: Sequence[EntryKey]
    acceptable: Callable[[Entry], Awaitable[bool]]
    ask: AskUpstream


class Finder(Protocol):
    """Where services find entries."""

    async def find(self, asked: Asked) -> Entry | None:
        """Return the first acceptable entry with a complete closure, None when there is none."""
        ...


class LocalFinder:
    """Finds what was pushed here."""

    def __init__(self, index: Index, closures: ClosureChecker) -> None:
        self._index = index
        self._closures = closures

    async def find(self, asked: Asked) -> Entry | None:
        """See Finder."""
        for at in range(0, len(asked.keys), _KEYS):
            for entry in await self._index.get(asked.keys[at : at + _KEYS]):
                if (
                    entry is not None
                    and await asked.acceptable(entry)
                    and await self._closures.complete(entry)
                ):
                    return entry
        return None
