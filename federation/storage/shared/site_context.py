"""What reading, receiving and upkeep of a node of a shared site have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from federation.config.model import StorageConfig
from federation.config.types import share_of
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable, StorageFull
from federation.core.provenance import Provenance, Source
from federation.core.tasks import Background
from federation.core.uses import Use
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LogLimit, once_a_minute
from federation.storage.breaker import DamageBreaker
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.cache_purges import CachePurges
from federation.storage.shared.cached_uses import CachedUses
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.objects import ObjectBucket
from federation.storage.shared.site_marker import SiteMarker
from federation.storage.storage import Storage

_log = structlog.get_logger(__name__)
FROM_SITE = Provenance(Source.UPSTREAM, origin="site")  # of what the cache has from the site
_KEEPING_MAX = 32
_MEASURE_EVERY_S = 1.0


@dataclass(slots=True)
class SiteContext:
    """The shared parts; one for each process. Used from the event loop."""

    catalogue: SiteCatalogue
    bucket: ObjectBucket
    marker: SiteMarker
    cache: Storage
    purged: CachePurges
    uses: CachedUses
    settings: StorageConfig
    clock: Clock
    metrics: Metrics
    sending: asyncio.Semaphore  # parts in memory on their way to the bucket
    fetching: asyncio.Semaphore  # and from it to the cache
    direct: asyncio.Semaphore  # and from it to a reader, past the cache
    damage: DamageBreaker = field(default_factory=lambda: DamageBreaker("bucket"))
    background: Background = field(default_factory=Background)
    _keeping: int = 0  # batches of small blobs on their way to the cache
    _room_lines: LogLimit = field(init=False)  # in the log, about a full site

    def __post_init__(self) -> None:
        self._room_lines = once_a_minute(self.clock)

    def cache_takes(self, size_bytes: int) -> bool:
        """Whether a blob may stay in the cache: half of what eviction leaves free is for uploads.

        Blobs that were cached a moment ago cannot be evicted yet, and must not refuse an upload.
        """
        space = self.cache.core.space
        most_bytes = (space.marks.starts_at_bytes + space.marks.quota_bytes) // 2
        return space.stored_bytes + size_bytes <= most_bytes

    def note_refusal(self, blobs: int = 1) -> None:
        """Record that blobs were refused for lack of room in the site's quota."""
        self.metrics.refused_for_room.inc(blobs)
        if self._room_lines.admit() is None:
            return
        _log.warning(
            "write_refused_for_room",
            held_bytes=self.catalogue.watch.totals().cost_bytes,
            quota_bytes=self.settings.quota,
            do="leased and pinned objects are not evicted, and evicted ones count until they are "
            "deleted a lease later: raise storage.quota at all nodes, shorten the lease, or find "
            "the clients that write so much",
        )

    def max_pinned_bytes(self) -> int:
        """Return how many bytes of the site's quota pins may keep now."""
        return share_of(self.settings.pins_max, self.settings.quota or 0)

    async def show_totals(self) -> None:
        """Show what the site holds in the metrics, until cancelled."""
        metrics = self.metrics
        while True:
            totals = self.catalogue.watch.totals()
            metrics.stored_bytes.set(totals.size_bytes)
            metrics.stored_blobs.set(totals.blobs)
            metrics.stored_entries.set(totals.entries)
            metrics.held_bytes.set(totals.cost_bytes)
            metrics.quota_bytes.set(self.settings.quota or 0)
            metrics.keeping.pinned_bytes.set(self.catalogue.watch.row.pinned_bytes)
            await self.clock.sleep(_MEASURE_EVERY_S)

    def keep_small(self, blobs: Sequence[tuple[Digest, bytes]]) -> None:
        """Begin to store small blobs in the cache, unless many wait for that already."""
        if blobs and self._keeping < _KEEPING_MAX:
            self._keeping += 1
            self.background.start(self._keep_small(blobs), "keep small blobs in the cache")

    async def _keep_small(self, blobs: Sequence[tuple[Digest, bytes]]) -> None:
        try:
            refused = await self.cache.write_small(blobs, provenance=FROM_SITE)
        finally:
            self._keeping -= 1
        for error in refused:
            if error is not None and not isinstance(error, StorageFull):
                _log.warning("cache_write_failed", blobs=len(blobs), reason=str(error))
                return

    async def set_aside(self, digest: Digest, found: BlobAt, reason: str) -> None:
        """Quarantine a blob whose object is absent or wrong; from then on it is missing.

        Raises SourceUnavailable where the blob has to stay: the catalogue does not answer, another
        upload has replaced it by now, or so many seem damaged that the bucket is suspected.
        """
        key = key_of(digest)
        held = (await self.catalogue.blobs.look_up([key], Use.PEEK, with_bytes=False)).get(key)
        if held is None:
            return
        if (held.seq, held.attempt) != (found.seq, found.attempt):
            raise SourceUnavailable("bucket", f"blob {digest} was replaced while it was read")
        now_s = self.clock.monotonic_s()
        blobs = self.catalogue.watch.totals().blobs
        if not self.damage.admit(now_s, digest, found.seq, blobs, is_proven=True):
            raise SourceUnavailable("bucket", self.damage.trouble)
        if await self.catalogue.blobs.set_aside([(key, found.seq)], reason):
            await self.catalogue.watch.refresh()
            self.metrics.quarantined.inc()
            _log.error("blob_quarantined", digest=str(digest), reason=reason)
