"""What was purged: names that stay away until somebody pushes them again.

Each name has at most one record, its last word, with a stamp of the hybrid logical clock. The later
stamp wins on every node, in whatever order records arrive, as for index entries. An entry with a
later stamp than the record of its name is not affected by it. Blobs have no stamp: a client's
upload of a purged blob makes a new record, "allowed again", which peers get before the blob.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from federation.core.digest import Digest
from federation.core.index import EntryKey, Stamp

PURGES_MAX = 1_000_000  # records of one node: some 200 MB
BY_MAX_CHARS = 200

Purgeable = Digest | EntryKey
Purged = Callable[[Collection[Digest]], Awaitable[set[Digest]]]  # Purges.blobs_among
PurgedEntries = Callable[[Collection[EntryKey]], Awaitable[set[EntryKey]]]  # Purges.entries_among


async def nothing_purged(_: Collection[Purgeable]) -> set[Any]:
    """Return no name, as Purges.blobs_among and entries_among do where nothing was purged."""
    return set()


class Purge(NamedTuple):
    """The record of one name."""

    thing: Purgeable
    stamp: Stamp
    label: str = ""  # for people: the URI, or the action's digest; empty for blobs
    by: str = ""  # who purged it, for people
    at_s: float = 0.0  # wall clock of the node where it was purged
    is_allowed: bool = False  # a blob that a client has pushed again since


class PurgePage(NamedTuple):
    """Records in the order of their numbers."""

    purges: Sequence[Purge]
    last: int  # the number of the last one; the number that was asked for if there are none


class PurgeOutcome(NamedTuple):
    """What a purge found."""

    thing: Purgeable
    label: str
    size_bytes: int  # of what was removed here
    was_here: bool
    was_pinned: bool = False  # a pin kept it from eviction


class Purges(Protocol):
    """The records of one storage. All methods are safe to call concurrently and to cancel.

    They raise SourceUnavailable when the records cannot be read, StorageFailed and StorageFull
    (more than PURGES_MAX, or no room) when they cannot be written.
    """

    async def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        """Purge names, each given with its label; on return they are gone, and that is durable.

        Many are purged in several steps. by: who does it, for people. Raises InvalidRequest for
        the empty blob, which is always held.
        """
        ...

    async def apply(self, purges: Sequence[Purge]) -> int:
        """Take over the records of another node, in one durable step; return how many were newer.

        Raises InvalidRequest for a stamp that is further ahead of the wall clock than
        storage.clock-drift; none is taken over then.
        """
        ...

    async def page(self, after: int, limit: int) -> PurgePage:
        """Return up to limit records with numbers above after (0: all).

        A record gets the next number whenever it changes, so whoever goes on from `last` of the
        page before sees every change, and of several changes of a name the last one alone.
        """
        ...

    async def blobs_among(self, digests: Collection[Digest]) -> set[Digest]:
        """Return those that are purged; they are not held. Counts as a use of their records."""
        ...

    async def entries_among(self, keys: Collection[EntryKey]) -> set[EntryKey]:
        """Return those that are purged, and not pushed again since. Counts as a use, too."""
        ...
