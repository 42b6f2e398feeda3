"""The embedded storage engine: blobs and index entries in one data directory.

A few threads read the catalogue and the files directly; one writer thread commits changes in
groups. Several processes may open one directory; they coordinate through the catalogue, kernel
locks and the epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import structlog

from federation.config import model
from federation.core.clock import Clock
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError
from federation.core.index import Entry, EntryKey
from federation.core.pins import ClosureWalk, FetchBlobs
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.store import Chunks, DigestCodec, NextBytes
from federation.observability.metrics import Metrics
from federation.storage.assembly import assemble
from federation.storage.catalogue import schema
from federation.storage.context import StorageContext
from federation.storage.file_role import FileRole
from federation.storage.held_watch import StoredWatch
from federation.storage.ingest import LocalIngest
from federation.storage.lost_blobs import CatalogueLostBlobs
from federation.storage.offline_switch import OfflineSwitch
from federation.storage.opening import open_directory
from federation.storage.pin_walk import PinWalker
from federation.storage.presence import Presence
from federation.storage.receiving import BlobReceiver
from federation.storage.replication_log import CatalogueLog
from federation.storage.single_writes import SingleWrites
from federation.storage.small_reads import SmallReads
from federation.storage.stored_index import StoredIndex
from federation.storage.streaming import Reading
from federation.storage.timing import Timing
from federation.storage.upkeep.flusher import Flusher
from federation.storage.upkeep.maintenance import Maintenance
from federation.storage.upkeep.volume_watch import VolumeWatch

_log = structlog.get_logger(__name__)


class Storage:
    """An open data directory: see NodeStorage in contract.py. Make it with open()."""

    def __init__(self, core: StorageContext, node_id: str, log_epoch: str) -> None:
        self.node_id = node_id
        self._core = core
        self.ledger = CatalogueLog(core, node_id, log_epoch)
        self.lost = CatalogueLostBlobs(core)
        self.fetching = FileRole(core.directory.fetch_lock)
        self._presence = Presence(core)
        self._small_reads = SmallReads(core)
        self._receiver = BlobReceiver(core, self._presence)
        self._single_writes = SingleWrites(core, self._receiver)
        self._index = StoredIndex(core)
        self.flusher = Flusher(core)
        self.volume_watch = VolumeWatch(core)
        self.maintenance = Maintenance(core, self.flusher)
        self.offline_switch = OfflineSwitch(core)

    def __repr__(self) -> str:
        return f"<Storage {self._core.directory.root} {self._core.space!r}>"

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        settings: model.StorageConfig,
        limits: model.LimitsConfig,
        metrics: Metrics,
        clock: Clock,
        *,
        maintain: bool = True,
    ) -> Storage:
        """Open a data directory, creating it if it does not exist.

        maintain False: serve and write, but leave maintenance (eviction, scrub ...) to others.

        Raises StorageRefused.
        """
        timing = Timing.for_lease(settings.lease)
        opened = await asyncio.to_thread(open_directory, data_dir, clock, timing)
        _log.info("storage_opened", data_dir=str(data_dir), sqlite=schema.check_library())
        core = assemble(opened, settings, limits, metrics, clock, timing)
        storage = cls(core, opened.node_id, opened.log_epoch)
        # Before anything is looked at, since a watch covers only what comes after it.
        await asyncio.to_thread(core.files.start)
        await storage.flusher.measure()
        await asyncio.to_thread(core.resident.open)
        core.writer.start()
        storage.flusher.start()
        storage.volume_watch.start()
        if maintain:
            storage.maintenance.start()
        await storage.offline_switch.refresh()
        if maintain:
            storage.offline_switch.start()
        return storage

    @property
    def core(self) -> StorageContext:
        """The parts, for the offline commands of this package and tests."""
        return self._core

    @property
    def quota_bytes(self) -> int:
        """How many bytes may be held now."""
        return self._core.space.quota_bytes

    def apply_config(self, settings: model.StorageConfig) -> None:
        """See NodeStorage. Settings that apply only at opening (lease, max-blob) are ignored."""
        self._core.settings = settings
        self._core.pressure.set()  # measure and evict now: the quota may be smaller

    def keep_pins(self, walk: ClosureWalk, fetch: FetchBlobs | None) -> None:
        """See NodeStorage."""
        self.maintenance.pin_keeper.walker = self.pin_walker(walk, fetch)

    def pin_walker(self, walk: ClosureWalk, fetch: FetchBlobs | None = None) -> PinWalker[int]:
        """Return what keeps the entries that a pin matches."""
        return PinWalker(self.ledger.pins.keepings, self, walk, fetch)

    def announce(self, **facts: Any) -> None:
        """Publish facts about this process, such as its addresses (run/ID.json)."""
        self._core.run.announce({"node_id": self.node_id, **facts})

    def health(self) -> tuple[bool, str]:
        """Return whether everything works, and if not, what is wrong."""
        if self._core.writer.failure is not None:
            return False, self._core.writer.failure
        if self._core.directory.volume.trouble:
            return False, self._core.directory.volume.trouble
        oldest = self._core.touches.unflushed_since_ms()
        unflushed_ms = 0 if oldest is None else self._core.now_ms() - oldest
        stuck_ms = self._core.writer.stuck_s() * 1000
        if max(unflushed_ms, stuck_ms) > max(10_000, self._core.timing.unflushed_max_ms):
            return False, "the catalogue has not been writable for more than 10 s"
        return True, ""

    async def close(self) -> None:
        """Write pending changes, end all threads and release the directory."""
        # The roles first: another process takes them over while this one writes what is left.
        self.ledger.close()
        self.fetching.close()
        await self.ledger.stop_waiting()
        await self._core.background.drain()
        await self.offline_switch.close()
        await self.maintenance.close()
        await self.volume_watch.close()
        await self._core.background.drain()  # quarantining what the scrub found last
        await self.flusher.close()
        self._core.resident.close()
        await asyncio.to_thread(self._core.writer.close)
        for pool in (self._core.writes, self._core.reads, self._core.pool):
            await asyncio.to_thread(pool.close)
        # Behind all other connections: closing this descriptor drops the locks of all of them.
        self._core.resident.release()
        # Behind the last write: from now on this process does not count as killed.
        self._core.run.end()
        self._core.files.close()
        self._core.epoch.close()

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
        """See federation.core.store.LocalStore."""
        return self._small_reads.read_at_once(digest)

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """See federation.core.store.Store."""
        return Reading(self._core, digest, offset, limit, next_bytes)

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See federation.core.store.Store."""
        return await self._receiver.write(digest, chunks, provenance)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See federation.core.store.Store."""
        return await self._small_reads.read_small(digests)

    async def write_small(
        self,
        blobs: Sequence[tuple[Digest, bytes]],
        *,
        provenance: Provenance = FROM_CLIENT,
    ) -> list[FederationError | None]:
        """See federation.core.store.Store."""
        return await self._receiver.write_small(blobs, provenance)

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See federation.core.store.LocalStore."""
        return await self._single_writes.write_one(digest, data, provenance)

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        """See federation.core.store.LocalStore."""
        return not await self._receiver.missing_of([digest], provenance)

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> LocalIngest:
        """See federation.core.store.LocalStore."""
        return self._receiver.begin(digest, provenance)

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None = None,
        *,
        announced_bytes: int = 0,
        provenance: Provenance = FROM_CLIENT,
    ) -> LocalIngest:
        """See federation.core.store.LocalStore."""
        return self._receiver.begin_unsized(function, raw_hash, announced_bytes, provenance)

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        """See federation.core.store.LocalStore."""
        return await self._presence.size_of(function, raw_hash)

    def commits(self) -> int:
        """See federation.core.store.LocalStore."""
        return self._core.head.value

    def watch(self) -> StoredWatch:
        """See federation.core.store.WatchesHeld."""
        return StoredWatch(self._core)

    # -- Index -----------------------------------------------------------------------------

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        """See federation.core.index.Index."""
        return await self._index.get(keys)

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        """See federation.core.index.Index."""
        return await self._index.get_like(keys)

    def recall(self, key: EntryKey) -> Entry | None:
        """See federation.core.index.Index."""
        return self._index.recall(key)

    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """See federation.core.index.Index."""
        return self._index.lacks_at_once(keys)

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        """See federation.core.index.Index, and StoredIndex.put."""
        await self._index.put(entries, provenance)

    async def put_over(
        self, entry: Entry, held: Entry | None, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See Index. Raises StorageFull, StorageFailed, InvalidRequest."""
        return await self._index.put_over(entry, held, provenance)
