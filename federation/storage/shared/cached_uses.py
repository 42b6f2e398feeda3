"""Tells the catalogue about uses that this node's cache served, in batches.

A read from the cache asks nobody. Its use is remembered here and written within a moment; while the
catalogue is away, the uses wait, up to a bound: they order eviction, and protect nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable, StorageFailed
from federation.core.uses import Use
from federation.storage.existence_cache import ExistenceCache
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue

_KEYS_MAX = 100_000
_EVERY_S = 1.0
_AT_ONCE = 5_000


class CachedUses:
    """Catalogue keys of blobs, each told at most once in half a granularity."""

    def __init__(self, catalogue: SiteCatalogue, clock: Clock) -> None:
        self._catalogue = catalogue
        self._clock = clock
        granularity_ms = catalogue.settings.granularity_ms
        self._leased = ExistenceCache(catalogue.watch.presence, granularity_ms, 2 * _KEYS_MAX)
        self._waiting: dict[bytes, None] = {}

    def __repr__(self) -> str:
        return f"<CachedUses {len(self._waiting)} waiting>"

    def note(self, key: bytes) -> None:
        """Record a use that the cache served."""
        if not self.are_leased([key]) and len(self._waiting) < _KEYS_MAX:
            self._waiting[key] = None

    def are_leased(self, keys: Sequence[bytes]) -> bool:
        """Whether the catalogue has leased all of these within half a granularity."""
        return not self._leased.unknown(keys, self._now_ms())

    async def lease(self, keys: Sequence[bytes], use: Use) -> Sequence[int | None]:
        """Do what SiteBlobs.find() does, and remember what is held."""
        asked_ms, epoch = self._now_ms(), self._leased.epoch
        sizes = await self._catalogue.blobs.find(keys, use)
        held = [key for key, size in zip(keys, sizes, strict=True) if size is not None]
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
            some = list(self._waiting)[:_AT_ONCE]
            try:
                await self.lease(some, Use.CLIENT)
            except (SourceUnavailable, StorageFailed):
                return  # the catalogue reports its own trouble
            for key in some:
                self._waiting.pop(key, None)

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)
