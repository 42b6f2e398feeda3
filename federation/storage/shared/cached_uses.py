"""Tells the catalogue about uses that this node's cache served, in batches.

A read from the cache asks nobody. Its use is remembered here and written within a moment; while the
catalogue is away, the uses wait, up to a bound: they order eviction, and protect nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable, StorageFailed
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue

_KEYS_MAX = 100_000
_EVERY_S = 1.0
_AT_ONCE = 5_000


class CachedUses:
    """Catalogue keys of blobs, each told at most once in half a granularity."""

    def __init__(self, catalogue: SiteCatalogue, clock: Clock) -> None:
        self._catalogue = catalogue
        self._half_s = catalogue.settings.granularity_ms / 4000  # two such halves are believed
        self._clock = clock
        self._presence = catalogue.watch.presence()
        self._young: set[bytes] = set()  # told, or found held, in this half of the period
        self._old: set[bytes] = set()
        self._turns_s = 0.0
        self._waiting: dict[bytes, None] = {}

    def __repr__(self) -> str:
        return f"<CachedUses {len(self._waiting)} waiting>"

    def note(self, key: bytes) -> None:
        """Record a use that the cache served."""
        if not self._is_recent(key) and len(self._waiting) < _KEYS_MAX:
            self._waiting[key] = None

    def are_leased(self, keys: Iterable[bytes]) -> bool:
        """Whether the catalogue has leased all of these within half a granularity."""
        return all(map(self._is_recent, keys))

    def leased(self, keys: Iterable[bytes]) -> None:
        """Record that the catalogue has just leased these."""
        self._turn()
        self._young.update(keys)
        if len(self._young) > _KEYS_MAX:
            self._old, self._young = self._young, set()

    def forget(self) -> None:
        """Record that nothing is known to be leased any more."""
        self._young, self._old = set(), set()

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
                await self._catalogue.blobs.touch(some)
            except (SourceUnavailable, StorageFailed):
                return  # the catalogue reports its own trouble
            for key in some:
                self._waiting.pop(key, None)
            self.leased(some)

    def _is_recent(self, key: bytes) -> bool:
        self._turn()
        return key in self._young or key in self._old

    def _turn(self) -> None:
        now_s, presence = self._clock.monotonic_s(), self._catalogue.watch.presence()
        if presence != self._presence:  # something was removed that may have been leased
            self._presence = presence
            self.forget()
        if now_s >= self._turns_s:
            self._old = self._young if now_s < self._turns_s + self._half_s else set()
            self._young = set()
            self._turns_s = now_s + self._half_s
