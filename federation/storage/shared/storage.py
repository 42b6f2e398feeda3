"""The shared engine's NodeStorage: one node of a site, which any number of nodes serve.

The catalogue (PostgreSQL) decides what is held; the bucket has large blobs; the node's data
directory is a cache, an embedded storage that may be lost at any time.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import structlog

from federation.config.model import LimitsConfig, StorageConfig
from federation.core.clock import Clock
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import BlobNotFound, FederationError
from federation.core.index import Entry, EntryKey
from federation.core.lost_blobs import LostBlobs
from federation.core.pins import ClosureWalk, FetchBlobs
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.sole_role import SoleRole
from federation.core.store import Chunks, DigestCodec, NextBytes
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.storage.contract import OfflineState
from federation.storage.shared.fills import Fills
from federation.storage.shared.opening import cache_settings, open_core
from federation.storage.shared.site_context import SiteContext
from federation.storage.shared.site_entry_age import without_expired_at_site
from federation.storage.shared.site_ingest import SiteIngest
from federation.storage.shared.site_log import SiteLog
from federation.storage.shared.site_pins import site_pins
from federation.storage.shared.site_presence import SiteHeldWatch, SitePresence
from federation.storage.shared.site_reading import SiteReading
from federation.storage.shared.site_receiving import SiteReceiver
from federation.storage.shared.site_small import SiteSmall
from federation.storage.shared.suspect_blobs import SuspectBlobs
from federation.storage.shared.upkeep.site_upkeep import SiteUpkeep

_log = structlog.get_logger(__name__)


class SharedStorage:
    """A node of a shared site: see NodeStorage in storage/contract.py. Make it with open()."""

    def __init__(self, core: SiteContext, upkeep: SiteUpkeep) -> None:
        self._core = core
        self._catalogue = core.catalogue
        self._presence = SitePresence(core)
        self._fills = Fills(core)
        self._receiver = SiteReceiver(core, self._presence)
        self._small = SiteSmall(core, self._presence, self._fills, self._receiver)
        self._upkeep = upkeep
        self._pins = site_pins(core.catalogue, core.clock, core.max_pinned_bytes)
        self._ledger = SiteLog(core.catalogue, self._pins)
        self._tasks = Background()

    def __repr__(self) -> str:
        return f"<SharedStorage of site {self.node_id}, {self._core.bucket!r}>"

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        settings: StorageConfig,
        limits: LimitsConfig,
        metrics: Metrics,
        clock: Clock,
    ) -> SharedStorage:
        """Open the site: see open_core(). Raises StorageRefused."""
        core = await open_core(data_dir, settings, limits, metrics, clock)
        storage = cls(core, SiteUpkeep(core))
        storage.start()
        _log.info("site_opened", site=storage.node_id, cache=str(data_dir))
        return storage

    def start(self) -> None:
        """Begin the work in the background."""
        core = self._core
        self._tasks.keep(core.uses.run, "cached-uses", core.clock, core.metrics.failing)
        self._tasks.keep(core.purged.run, "cache-purges", core.clock, core.metrics.failing)
        suspects = SuspectBlobs(core)
        self._tasks.keep(suspects.run, "suspect-blobs", core.clock, core.metrics.failing)
        self._tasks.keep(core.show_totals, "site-totals", core.clock, core.metrics.failing)
        self._upkeep.start()

    @property
    def core(self) -> SiteContext:
        """The parts, for tests."""
        return self._core

    @property
    def node_id(self) -> str:
        """The id of the site: to other nodes its nodes are one."""
        return self._catalogue.site_id

    @property
    def ledger(self) -> SiteLog:
        """See NodeStorage."""
        return self._ledger

    @property
    def lost(self) -> LostBlobs:
        """See NodeStorage."""
        return self._catalogue.lost

    @property
    def fetching(self) -> SoleRole:
        """See NodeStorage. Who leads here also writes the record of lost blobs."""
        return self._catalogue.lost.role

    @property
    def offline_switch(self) -> OfflineState:
        """See NodeStorage."""
        return self._catalogue.watch

    @property
    def quota_bytes(self) -> int:
        """Of the site."""
        return self._core.settings.quota or 0

    def health(self) -> tuple[bool, str]:
        """See NodeStorage. Without the bucket a node serves on, without the catalogue it cannot."""
        for part in (self._catalogue, self._core.cache):
            serving, reason = part.health()
            if not serving:
                return False, reason
        if self._core.damage.trouble:
            return True, self._core.damage.trouble
        breaker = self._core.bucket.breaker
        return True, "" if breaker.allows() else f"the bucket is away: {breaker.last_error}"

    def apply_config(self, settings: StorageConfig) -> None:
        """See NodeStorage."""
        self._core.settings = settings
        self._catalogue.set_quota(settings.quota)
        self._core.cache.apply_config(cache_settings(settings))

    def keep_pins(self, walk: ClosureWalk, fetch: FetchBlobs | None) -> None:
        """See NodeStorage."""
        self._upkeep.pins.walk_with(self, walk, fetch)

    def announce(self, **facts: Any) -> None:
        """See NodeStorage; commands on this machine find it in the data directory."""
        self._core.cache.announce(**{**facts, "node_id": self.node_id})

    async def close(self) -> None:
        """End what is under way, and give leads to other nodes."""
        self._ledger.close()
        await self._upkeep.close()
        await self._tasks.close()
        await self._fills.close()
        await self._core.uses.flush()
        await self._core.background.drain()
        await self._core.cache.close()
        await self._catalogue.close()

    # -- Store -----------------------------------------------------------------------------

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See federation.core.store.Store."""
        return await self._presence.find_missing(digests)

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        """See federation.core.store.LocalStore."""
        return await self._presence.find_missing_named(names, spelling)

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        """See federation.core.store.LocalStore."""
        return self._presence.find_missing_at_once(names, spelling)

    def read_at_once(self, digest: Digest) -> bytes | None:
        """See federation.core.store.LocalStore. What the cache lacks, the site may have."""
        core = self._core
        if not (core.purged.is_current and core.uses.are_leased([digest])):
            return None
        try:
            return core.cache.read_at_once(digest)
        except BlobNotFound:
            return None

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """See federation.core.store.Store."""
        return SiteReading(self._core, self._fills, digest, offset, limit, next_bytes)

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See federation.core.store.Store."""
        return await self._receiver.write(digest, chunks, provenance)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See federation.core.store.Store."""
        return await self._small.read_small(digests)

    async def write_small(
        self,
        blobs: Sequence[tuple[Digest, bytes]],
        *,
        provenance: Provenance = FROM_CLIENT,
    ) -> list[FederationError | None]:
        """See federation.core.store.Store."""
        return await self._small.write_small(blobs, provenance)

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See federation.core.store.LocalStore."""
        return await self._small.write_one(digest, data, provenance)

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        """See federation.core.store.LocalStore."""
        return not await self._presence.missing_of([digest], provenance)

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> SiteIngest:
        """See federation.core.store.LocalStore."""
        return self._receiver.begin(digest, provenance)

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None = None,
        *,
        announced_bytes: int = 0,
        provenance: Provenance = FROM_CLIENT,
    ) -> SiteIngest:
        """See federation.core.store.LocalStore."""
        return self._receiver.begin_unsized(function, raw_hash, announced_bytes, provenance)

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        """See federation.core.store.LocalStore."""
        return await self._presence.size_of(function, raw_hash)

    def commits(self) -> int:
        """See federation.core.store.LocalStore."""
        return self._catalogue.watch.head()

    def watch(self) -> SiteHeldWatch:
        """See federation.core.store.WatchesHeld."""
        return SiteHeldWatch(self._core)

    # -- Index -----------------------------------------------------------------------------

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        """See federation.core.index.Index."""
        return await self._catalogue.index.get(keys)

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        """See federation.core.index.Index."""
        return await self._catalogue.index.get_like(keys)

    def recall(self, key: EntryKey) -> Entry | None:
        """See federation.core.index.Index."""
        return self._catalogue.index.recall(key)

    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """See federation.core.index.Index."""
        return self._catalogue.index.lacks_at_once(keys)

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        """See federation.core.index.Index."""
        taken = await without_expired_at_site(self._core, self._pins, entries, provenance)
        await self._catalogue.index.put(taken, provenance=provenance)

    async def put_over(
        self, entry: Entry, held: Entry | None, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See federation.core.index.Index."""
        return await self._catalogue.index.put_over(entry, held, provenance=provenance)
