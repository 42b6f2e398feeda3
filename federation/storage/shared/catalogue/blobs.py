"""The site's blobs: which are held, where their bytes are, and their leases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from federation.core.clock import Clock
from federation.core.digest import HASH_BYTES
from federation.core.errors import SourceUnavailable
from federation.core.provenance import Provenance
from federation.core.uses import Use
from federation.storage.catalogue.blobs import digest_of_key, key_of
from federation.storage.catalogue.lost import KEPT_MAX
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import SOURCE, DatabaseConnections
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.insertions import Insertions
from federation.storage.shared.catalogue.rows import BlobAt, BlobObject, Insertion, NewBlob
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.texts import clean, joined

_TRIES = 3  # of a look-up whose answer came too late to be believed
_HIGHEST = b"\xff" * HASH_BYTES

_FIND = "SELECT sizes, newest, token FROM federation_find($1, $2, $3)"
_ACCEPT = "SELECT sizes, newest, token FROM federation_accept_held($1, $2, $3, $4, $5, $6)"
_OFFERED = "SELECT sizes, newest, token FROM federation_find_offered($1, $2)"
_LOOK_UP = "SELECT * FROM federation_look_up($1, $2, $3, $4)"
_SIZE_OF = "SELECT size FROM blob WHERE key = $1"
_WALK = """
SELECT key, size, seq, attempt, parts, NULL FROM blob WHERE key > $1 ORDER BY key LIMIT $2
"""
_LIKE = "SELECT * FROM federation_held_like($1, $2)"
_SET_ASIDE = "SELECT federation_set_aside($1, $2, $3, $4, $5, $6)"
_DAMAGED = """
SELECT EXISTS (SELECT FROM quarantine WHERE key = $1)
  AND NOT EXISTS (SELECT FROM blob WHERE key = $1)
"""
_KNOWN = """
SELECT b.key IS NOT NULL OR g.key IS NOT NULL
FROM unnest($1, $2) WITH ORDINALITY AS o(key, attempt, at)
LEFT JOIN blob b ON b.key = o.key AND b.attempt = o.attempt
LEFT JOIN gone g ON g.key = o.key AND g.attempt = o.attempt ORDER BY o.at
"""


class SiteBlobs:
    """See site_catalogue.py for what all methods raise. A key is catalogue.blobs.key_of(digest)."""

    def __init__(
        self,
        connections: DatabaseConnections,
        flusher: CommitFlusher,
        insertions: Insertions,
        settings: CatalogueSettings,
        clock: Clock,
    ) -> None:
        self._connections = connections
        self._flusher = flusher
        self._insertions = insertions
        self._granularity_ms = settings.granularity_ms
        self._lease_ms = settings.lease_ms
        self._clock = clock

    def __repr__(self) -> str:
        return f"<SiteBlobs over {self._connections!r}>"

    async def find(self, keys: Sequence[bytes], use: Use) -> Sequence[int | None]:
        """Return the size in bytes of each blob, in order, None where none is held.

        What is held is leased (Use.PEEK: is not), and survives a crash of the database. A digest
        with the right hash and another size is not held: the caller has to compare the sizes.
        """
        if not keys:
            return []
        return await self._sizes(_FIND, arrays.keys(keys), int(use), self._granularity_ms)

    async def find_offered(self, keys: Sequence[bytes]) -> Sequence[int | None]:
        """Do what find() does for a peer: what was purged counts as held, or it would send it."""
        if not keys:
            return []
        return await self._sizes(_OFFERED, arrays.keys(keys), self._granularity_ms)

    async def accept_held(
        self, keys: Sequence[bytes], provenance: Provenance
    ) -> Sequence[int | None]:
        """Do what find() does for a repeated upload: see LocalStore.accept_held."""
        if not keys:
            return []
        came = (int(provenance.source), joined(provenance.via), clean(provenance.origin))
        wall_s = self._clock.wall_s()
        return await self._sizes(_ACCEPT, arrays.keys(keys), *came, wall_s, self._granularity_ms)

    async def _sizes(self, statement: str, *values: Any) -> Sequence[int | None]:
        for _ in range(_TRIES):
            begun_s = self._clock.monotonic_s()
            sizes, newest, life = await self._connections.ask_one(statement, *values)
            await self._flusher.cover(newest, life)
            if self._is_fresh(begun_s):
                found: Sequence[int | None] = sizes
                return found
        raise SourceUnavailable(SOURCE, "its answers come too late for leases to hold")

    def _is_fresh(self, begun_s: float) -> bool:
        """Return whether an answer to a question of begun_s can be relied on for a lease."""
        return (self._clock.monotonic_s() - begun_s) * 1000 <= self._granularity_ms / 2

    async def look_up(
        self, keys: Sequence[bytes], use: Use, *, with_bytes: bool
    ) -> dict[bytes, BlobAt]:
        """Return where the held ones of these blobs are; leases them unless use is Use.PEEK."""
        if not keys:
            return {}
        for _ in range(_TRIES):
            begun_s = self._clock.monotonic_s()
            wanted = (arrays.keys(keys), int(use), self._granularity_ms, with_bytes)
            rows = await self._connections.ask(_LOOK_UP, *wanted)
            if use is Use.PEEK or self._is_fresh(begun_s):
                return {key: BlobAt(*columns) for key, *columns in rows}
        raise SourceUnavailable(SOURCE, "its answers come too late for leases to hold")

    async def insert(self, blobs: Sequence[NewBlob]) -> list[Insertion]:
        """Make verified blobs visible to all nodes and log them; durable on return.

        Raises StorageFailed also where it is not known whether they were stored.
        """
        return await self._insertions.insert(blobs)

    async def set_aside(self, rows: Sequence[tuple[bytes, int]], reason: str) -> int:
        """Quarantine blobs: all nodes find them missing within 1 s. Returns how many were held.

        rows: the key and BlobAt.seq of each, as it was found damaged: one that was uploaded again
        meanwhile stays.
        """
        if not rows:
            return 0
        keys, seqs = zip(*rows, strict=True)
        (removed,) = await self._connections.ask_one(
            _SET_ASIDE,
            arrays.keys(keys),
            arrays.numbers(seqs),
            clean(reason),
            self._clock.wall_s(),
            self._lease_ms,
            KEPT_MAX,
        )
        return int(removed)

    async def size_of(self, key: bytes) -> int | None:
        """Return the size in bytes of a blob, None: it is not held. No lease."""
        rows = await self._connections.ask(_SIZE_OF, key)
        return int(rows[0][0]) if rows else None

    async def walk(self, after: bytes, limit: int) -> list[tuple[bytes, BlobAt]]:
        """Return up to limit blobs whose keys follow `after`, in their order; b"": the first ones.

        No lease. BlobAt.data is None for all.
        """
        rows = await self._connections.ask(_WALK, after, limit)
        return [(key, BlobAt(*columns)) for key, *columns in rows]

    async def objects_known(self, objects: Sequence[BlobObject]) -> list[bool]:
        """Return for each object whether it is that of a held blob, or waits to be deleted."""
        wanted = arrays.keys([key_of(each.digest) for each in objects])
        attempts = arrays.blobs([each.attempt for each in objects])
        return [known for (known,) in await self._connections.ask(_KNOWN, wanted, attempts)]

    async def held_like(self, names: Sequence[bytes]) -> set[bytes]:
        """Return those names with which the key of a held or purged blob begins. No lease."""
        rows = await self._connections.ask(_LIKE, arrays.blobs(names), _HIGHEST)
        return {name for (name,) in rows}

    async def is_damaged(self, key: bytes) -> bool:
        """Return whether a blob was quarantined and did not come back."""
        (damaged,) = await self._connections.ask_one(_DAMAGED, key)
        return bool(damaged)


def objects_of(rows: Sequence[tuple[bytes, bytes, int]]) -> list[BlobObject]:
    """Return the objects of rows of key, attempt and size."""
    return [BlobObject(digest_of_key(key, size), attempt) for key, attempt, size in rows]
