"""Finding the index entry that answers a request: the seam between services and where entries are.

An entry answers only with its complete closure, which finding it leases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from federation.core.store import Entry, EntryKey
from federation.upstream.index_queries import AskUpstream


class EntryQuery(NamedTuple):
    """What a request wants: any one of keys, in this order, that is acceptable.

    ask puts the same question to an upstream; its answer has one of keys.
    """

    keys: Sequence[EntryKey]
    acceptable: Callable[[Entry], Awaitable[bool]]
    ask: AskUpstream


class Finder(Protocol):
    """Where services find entries."""

    async def find(self, asked: EntryQuery) -> Entry | None:
        """Return the first acceptable entry with a complete closure, None when there is none."""
        ...
