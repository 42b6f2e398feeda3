"""The parts of an open data directory that reading, receiving and maintenance share."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

import apsw
import structlog

from federation.config import model
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.tasks import Background
from federation.core.uses import Use
from federation.observability.metrics import Metrics
from federation.storage.access_times import Touches
from federation.storage.catalogue.pool import Pool
from federation.storage.catalogue.transaction import Transaction
from federation.storage.catalogue.writer import Writer
from federation.storage.directory import DataDirectory
from federation.storage.log_end import LogEnd
from federation.storage.processes import ProcessEntry
from federation.storage.quarantine import quarantine
from federation.storage.read_cache import ReadCache
from federation.storage.shared_memory import Epoch
from federation.storage.space import Space
from federation.storage.timing import StoreClock, Timing

_log = structlog.get_logger(__name__)
# Text that is none is damage, too; a disk that fails is treated alike.
_DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, UnicodeDecodeError)


@dataclass(slots=True)
class StorageContext:
    """One per process and data directory. All fields are used from the event loop."""

    directory: DataDirectory
    settings: model.StorageConfig
    clock: Clock
    store_clock: StoreClock
    timing: Timing
    metrics: Metrics
    run: ProcessEntry
    epoch: Epoch
    head: LogEnd
    pool: Pool
    writer: Writer
    touches: Touches
    hot: ReadCache
    space: Space
    background: Background
    pressure: asyncio.Event = field(default_factory=asyncio.Event)  # eviction is wanted now
    refused_ms: int | None = None  # when an upload was last refused for want of room
    asides: dict[Digest, asyncio.Task[None]] = field(default_factory=dict)  # of set_aside_soon

    def now_ms(self) -> int:
        """Return store time."""
        return self.store_clock.now_ms()

    def is_late(self, asked_ms: int) -> bool:
        """Whether a look-up begun at asked_ms took too long to be answered with "present".

        That answer is a lease, and an eviction could have looked twice without seeing it.
        """
        return asked_ms < self.now_ms() - self.timing.unflushed_max_ms

    def is_behind(self) -> bool:
        """Whether touches have stayed unwritten for so long that no new lease may be given."""
        oldest_ms = self.touches.unflushed_since_ms()
        return oldest_ms is not None and self.is_late(oldest_ms)

    def lease(self, keys: Collection[bytes], asked_ms: int, use: Use = Use.CLIENT) -> None:
        """Lease blobs whose written time of use (or lease, where it is no use) is getting old."""
        if not keys:
            return
        if use is Use.CLIENT:
            self.touches.blobs(keys, asked_ms)
        elif use is Use.LEASE:
            self.touches.leased(keys, asked_ms)

    def note_refusal(self, size_bytes: int) -> None:
        """Ask for eviction, enough for an upload of this size."""
        self.refused_ms = self.now_ms()
        self.epoch.want(size_bytes)
        self.pressure.set()

    async def set_aside(self, digest: Digest, seq: int, reason: str) -> None:
        """Quarantine a blob found damaged; from then on it is missing.

        A caller that is cancelled leaves it going on: every process has to hear of it.
        """
        self.set_aside_soon(digest, seq, reason)
        await self.finish_aside(digest)

    async def _set_aside(self, digest: Digest, seq: int, reason: str) -> None:
        """Never raises: what cannot be set aside is not served either, as every read checks it."""

        def work(transaction: Transaction) -> bool:
            return quarantine(transaction, self.directory, digest, seq, reason)

        try:
            if await self.writer.submit(work):
                self.epoch.bump()
                self.metrics.quarantined.inc()
                _log.error("blob_quarantined", digest=str(digest), reason=reason)
        except FederationError as error:
            _log.error("blob_damaged", digest=str(digest), reason=reason, kept_because=str(error))

    def set_aside_soon(self, digest: Digest, seq: int, reason: str) -> None:
        """Do the same without making the caller wait."""
        task = self.background.start(self._set_aside(digest, seq, reason), "quarantine")
        self.asides[digest] = task

        def ended(task: asyncio.Task[None]) -> None:
            if self.asides.get(digest) is task:
                del self.asides[digest]

        task.add_done_callback(ended)

    async def finish_aside(self, digest: Digest) -> None:
        """Wait until what was just found damaged is out of sight; at once for anything else."""
        if (task := self.asides.get(digest)) is not None:
            await asyncio.wait({task})

    def catalogue_unreadable(self, error: apsw.Error | UnicodeDecodeError) -> SourceUnavailable:
        """Note a failed catalogue read; a damaged catalogue is not written to any more."""
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, _DAMAGE):
            self.writer.fail(
                f"the catalogue is damaged or unreadable ({reason}). Stop the node, check the "
                "disk, and run `federation rebuild`"
            )
        _log.error("catalogue_read_failed", reason=reason)
        return SourceUnavailable("catalogue", reason)
