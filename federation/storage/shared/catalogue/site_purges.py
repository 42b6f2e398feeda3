"""Purges of a site: federation.core.purges.Purges over its database.

What is purged goes in the transaction that records it; objects in the bucket are deleted by the
lead of the upkeep at once. Other nodes learn of it by the watch of the site's row, and clear their
caches (federation/storage/shared/cache_purges.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import structlog

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import InvalidRequest, SourceUnavailable, StorageFailed
from federation.core.index import EntryKey, Stamp
from federation.core.purges import (
    BY_MAX_CHARS,
    PURGES_MAX,
    Purge,
    Purgeable,
    PurgeOutcome,
    PurgePage,
)
from federation.storage.catalogue import hlc
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.entry_rows import key_arrays
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.peer_rows import object_columns, object_of
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_watch import SiteWatch

COLUMNS = "kind, instance, name, size, label, who, at, allowed, ticks, node"  # as purge_of takes
_AT_ONCE = 200  # records in one transaction: the site's row is locked meanwhile
_LOGGED = 10  # names of a purge
_PURGE = """
SELECT taken, sizes, labels, token
FROM federation_purge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_PAGE = f"""
SELECT i.token, p.seq, {COLUMNS} FROM purge p CROSS JOIN federation_incarnation() AS i(token)
WHERE p.seq > $1 ORDER BY p.seq LIMIT $2
"""  # noqa: S608 - constants
_PINNED = """
SELECT coalesce(federation_is_kept_by(b.kept) OR federation_is_kept_by(e.kept), false)
FROM unnest($1, $2, $3) WITH ORDINALITY AS o(kind, instance, name, at)
LEFT JOIN blob b ON o.kind = 0 AND b.key = o.name
LEFT JOIN entry e ON e.kind = o.kind AND e.instance = o.instance AND e.name = o.name ORDER BY o.at
"""
_BLOBS = "SELECT * FROM federation_purged_blobs($1)"
_ENTRIES = "SELECT * FROM federation_purged_entries($1, $2, $3)"

_log = structlog.get_logger(__name__)


class SitePurges:
    """See federation.core.purges.Purges."""

    def __init__(
        self,
        connections: DatabaseConnections,
        flusher: CommitFlusher,
        watch: SiteWatch,
        settings: CatalogueSettings,
        clock: Clock,
    ) -> None:
        self._connections = connections
        self._flusher = flusher
        self._watch = watch
        self._drift_s = settings.drift_s
        self._clock = clock

    def __repr__(self) -> str:
        return f"<SitePurges over {self._connections!r}>"

    async def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        """See Purges. StorageFailed also where it is not known what was purged: do it again."""
        wall_s, by = self._clock.wall_s(), by[:BY_MAX_CHARS]
        records = [Purge(thing, Stamp(), label, by, wall_s) for thing, label in things]
        _check(records)
        outcomes: list[PurgeOutcome] = []
        for at in range(0, len(records), _AT_ONCE):
            part = records[at : at + _AT_ONCE]
            pinned = await self._connections.ask(_PINNED, *_arguments(part, are_own=True)[:3])
            _, sizes, labels = await self._change(part, are_own=True)
            outcomes += [
                PurgeOutcome(
                    purge.thing,
                    label.decode(),
                    size or 0,
                    size is not None,
                    was_pinned=size is not None and was_pinned,
                )
                for purge, size, label, (was_pinned,) in zip(
                    part, sizes, labels, pinned, strict=True
                )
            ]
        first = [each.label or str(each.thing) for each in outcomes[:_LOGGED]]
        size_bytes = sum(each.size_bytes for each in outcomes)
        _log.warning("purged", count=len(outcomes), bytes=size_bytes, by=by, first=first)
        return outcomes

    async def apply(self, purges: Sequence[Purge]) -> int:
        """See Purges."""
        _check(purges)
        wall_s = self._clock.wall_s()
        for each in purges:
            hlc.check(each.stamp, wall_s, self._drift_s)
        if not purges:
            return 0
        taken, _, _ = await self._change(purges, are_own=False)
        return sum(taken)

    async def page(self, after: int, limit: int) -> PurgePage:
        """See Purges. Asks the database also where the watch knows of none: it may be late."""
        rows = await self._connections.ask(_PAGE, after, limit)
        if not rows:
            return PurgePage([], after)
        life: UUID = rows[0][0]
        await self._flusher.cover_all(life)  # a peer must never be told of what a crash undoes
        return PurgePage([purge_of(columns) for _, _, *columns in rows], rows[-1][1])

    async def forgotten(self) -> int:
        """Return the highest number of a record that was forgotten. Raises SourceUnavailable."""
        (number,) = await self._connections.ask_one("SELECT purges_forgotten FROM site")
        return int(number)

    async def blobs_among(self, digests: Collection[Digest]) -> set[Digest]:
        """See Purges. Asks nobody while the site has no record, as far as the watch knows."""
        if not digests or not self._watch.row.purges:
            return set()
        by_key = {key_of(digest): digest for digest in digests}
        rows = await self._connections.ask(_BLOBS, arrays.keys(list(by_key)))
        return {by_key[key] for (key,) in rows}

    async def entries_among(self, keys: Collection[EntryKey]) -> set[EntryKey]:
        """See Purges. Asks nobody while the site has no record, as far as the watch knows."""
        if not keys or not self._watch.row.purges:
            return set()
        wanted = list(keys)
        rows = await self._connections.ask(_ENTRIES, *key_arrays(wanted))
        return {wanted[at - 1] for (at,) in rows}

    async def _change(
        self, purges: Sequence[Purge], *, are_own: bool
    ) -> tuple[list[bool], list[int | None], list[bytes]]:
        """Record purges, durably: whether each is news, what was removed, its label.

        Raises StorageFull, StorageFailed.
        """
        try:
            taken, sizes, labels, life = await self._connections.ask_one(
                _PURGE,
                *_arguments(purges, are_own=are_own),
                self._clock.wall_s(),
                self._drift_s,
                PURGES_MAX,
                twice=not are_own,  # a second run would find nothing to remove, and say so
            )
            await self._flusher.cover_all(life)
        except SourceUnavailable as error:
            raise StorageFailed(f"it is not certain what was purged: {error}") from error
        finally:
            await self._watch.refresh()  # from here on this node answers nothing from memory
        return taken, sizes, labels


def purge_of(columns: Sequence[Any]) -> Purge:
    """Make a record of the values of COLUMNS."""
    kind, instance, name, size, label, who, at_s, allowed, ticks, node = columns
    digest, key = object_of(kind, instance, name, size)
    thing = digest or key
    assert thing is not None
    return Purge(thing, Stamp(ticks, node), label.decode(), who.decode(), at_s, allowed)


def _arguments(purges: Sequence[Purge], *, are_own: bool) -> tuple[object, ...]:
    columns = [_columns_of(each.thing) for each in purges]
    return (
        arrays.numbers([kind for kind, _, _ in columns]),
        arrays.blobs([instance for _, instance, _ in columns]),
        arrays.blobs([name for _, _, name in columns]),
        arrays.numbers(
            [each.thing.size_bytes if isinstance(each.thing, Digest) else 0 for each in purges]
        ),
        arrays.blobs([each.label.encode() for each in purges]),
        arrays.blobs([each.by.encode() for each in purges]),
        [each.at_s for each in purges],
        [each.is_allowed for each in purges],
        arrays.numbers([each.stamp.ticks for each in purges]),
        [None if are_own else each.stamp.node for each in purges],
    )


def _columns_of(thing: Purgeable) -> tuple[int, bytes, bytes]:
    if isinstance(thing, Digest):
        return object_columns(thing, None)
    return object_columns(None, thing)


def _check(purges: Sequence[Purge]) -> None:
    for each in purges:
        if isinstance(each.thing, Digest) and each.thing.is_empty:
            raise InvalidRequest("the empty blob is always held; it cannot be purged")
