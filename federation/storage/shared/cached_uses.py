"""Tells the catalogue about uses that this node's cache served, in batches.

A read from the cache asks nobody. Its use is remembered here and written within a moment; while the
catalogue is away, the uses wait, up to a bound: they order eviction, and protect nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import itemgetter

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable, StorageFailed
from federation.core.uses import Use
from federation.storage.catalogue.blobs import keys_of
from federation.storage.existence_cache import ExistenceCache
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue

_BLOBS_MAX = 100_000
_EVERY_S = 1.0
_AT_ONCE = 5_000
# A batch of a thousand digests has these already; its catalogue keys would have to be made. That
# the function is left out does no harm: no two blobs have one hash, whichever function made it.
_hash_of = itemgetter(0)


class CachedUses:
    """Digests of blobs, each told at most once in half a granularity."""

    def __init__(self, catalogue: SiteCatalogue, clock: Clock) -> None:
        self._catalogue = catalogue
        self._clock = clock
        granularity_ms = catalogue.settings.granularity_ms
        self._leased = ExistenceCache(catalogue.watch.presence, granularity_ms, 2 * _BLOBS_MAX)
        self._waiting: dict[Digest, None] = {}

    def __repr__(self) -> str:
        return f"<CachedUses {len(self._waiting)} waiting>"

    def note(self, digest: Digest) -> None:
        """Record a use that the cache served."""
        if not self.are_leased([digest]) and len(self._waiting) < _BLOBS_MAX:
            self._waiting[digest] = None

    def are_leased(self, digests: Sequence[Digest]) -> bool:
        """Whether the catalogue has leased all of these within half a granularity."""
        return self._leased.knows(digests, _hash_of, self._now_ms())

    async def lease(self, digests: Sequence[Digest], use: Use) -> Sequence[int | None]:
        """Do what SiteBlobs.find() does, and remember what is held."""
        asked_ms, epoch = self._now_ms(), self._leased.epoch
        sizes = await self._catalogue.blobs.find(keys_of(digests), use)
        pairs = zip(digests, sizes, strict=True)
        held = [digest.hash for digest, size in pairs if size is not None]
        self._leased.remember(held, asked_ms, self._now_ms(), epoch)
        return sizes

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits now; what cannot be written waits on."""
        while self._waiting:
            some = list(islice(self._waiting, _AT_ONCE))
            try:
                await self.lease(some, Use.CLIENT)
            except (SourceUnavailable, StorageFailed):
                return  # the catalogue reports its own trouble
            for digest in some:
                self._waiting.pop(digest, None)

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)
