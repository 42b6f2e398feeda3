"""Which blobs a shared site holds. The catalogue leases what it calls held in the same statement.

Names that were found a moment ago are remembered, for half a granularity: eviction spares whatever
was leased within a lease plus two granularities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from federation.core import uses
from federation.core.digest import Digest, DigestFunction, hash_bytes
from federation.core.provenance import Provenance, Source
from federation.core.store import DigestCodec
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of, keys_of, keys_of_hashes
from federation.storage.existence_cache import ExistenceCache
from federation.storage.shared.site_context import SiteContext


def not_held(digests: Sequence[Digest], sizes: Sequence[int | None]) -> set[Digest]:
    """Return the missing ones of digests whose hashes the catalogue has with these sizes."""
    return {d for d, size in zip(digests, sizes, strict=True) if size != d.size_bytes}


class SitePresence:
    """Answers which of the blobs that a caller names are held."""

    def __init__(self, core: SiteContext) -> None:
        self._core = core
        granularity_ms = core.catalogue.settings.granularity_ms
        self._known = ExistenceCache(core.catalogue.watch.presence, granularity_ms)

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See federation.core.store.Store."""
        wanted = [digest for digest in digests if not digest.is_empty]
        found = await self._find(keys_of(wanted))
        return not_held(wanted, found)

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        """See federation.core.store.LocalStore."""
        is_use = uses.current() is Use.CLIENT
        asked_ms, epoch = self._now_ms(), self._known.epoch
        rest = self._known.unknown(names, asked_ms) if is_use else names
        if not rest:
            return set()
        found = await self._find(keys_of_hashes(spelling.hashes_of(rest)))
        size_of = spelling.size_of
        pairs = zip(rest, found, strict=True)
        held = [name for name, size in pairs if size is not None and size == size_of(name)]
        if is_use:
            self._known.remember(held, asked_ms, self._now_ms(), epoch)
        return set(rest).difference(held)

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        """See federation.core.store.LocalStore. Only names found a moment ago need no server."""
        del spelling
        if uses.current() is not Use.CLIENT:
            return None
        return set() if self._known.knows(names, bytes, self._now_ms()) else None

    async def missing_of(self, digests: Collection[Digest], provenance: Provenance) -> set[Digest]:
        """Return the missing digests; the others count as uploaded: LocalStore.accept_held."""
        if provenance.source is Source.UPSTREAM:
            return await self.find_missing(digests)
        wanted = [digest for digest in digests if not digest.is_empty]
        found = await self._core.catalogue.blobs.accept_held(keys_of(wanted), provenance)
        return not_held(wanted, found)

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        """See federation.core.store.LocalStore."""
        if raw_hash == hash_bytes(function, b""):
            return 0
        return await self._core.catalogue.blobs.size_of(key_of(Digest(raw_hash, 0, function)))

    async def _find(self, keys: Sequence[bytes]) -> Sequence[int | None]:
        blobs, use = self._core.catalogue.blobs, uses.current()
        return await (blobs.find_offered(keys) if use is Use.LEASE else blobs.find(keys, use))

    def _now_ms(self) -> int:
        return int(self._core.clock.monotonic_s() * 1000)


class SiteHeldWatch:
    """See federation.core.store.HeldWatch: certain for half a granularity after the look-up."""

    __slots__ = ("_core", "_presence", "_since_s", "_use")

    def __init__(self, core: SiteContext) -> None:
        self._core = core
        self._presence = core.catalogue.watch.presence()
        self._since_s = core.clock.monotonic_s()
        self._use = uses.current()

    def __repr__(self) -> str:
        return f"<SiteHeldWatch since {self._since_s}>"

    def renew(self, digests: Callable[[], Collection[Digest]] | None) -> bool:
        """See federation.core.store.HeldWatch. A lease can be renewed by a look-up only."""
        del digests
        if uses.current() > self._use or self._presence != self._core.catalogue.watch.presence():
            return False
        age_s = self._core.clock.monotonic_s() - self._since_s
        return age_s * 1000 <= self._core.catalogue.settings.granularity_ms / 2
