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
from federation.storage.blob_files import Damage
from federation.storage.catalogue.pool import Pool
from federation.storage.catalogue.transaction import Transaction
from federation.storage.catalogue.writer import Writer, damaged
from federation.storage.directory import DataDirectory
from federation.storage.log_end import LogEnd
from federation.storage.processes import ProcessEntry
from federation.storage.quarantine import Aside, quarantine
from federation.storage.read_cache import ReadCache
from federation.storage.shared_memory import Epoch
from federation.storage.space import Space
from federation.storage.timing import StoreClock, Timing

_log = structlog.get_logger(__name__)
# Text that is none is damage, too; a disk that fails is treated alike.
_TELL_EVERY_S = 60.0
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
    pool: Pool  # look-ups in the catalogue, and hashing: nothing that a busy disk holds up for long
    reads: Pool  # of blob files, which may be slow
    writes: Pool  # of blob files: each sync takes a thread until the disk has done it
    writer: Writer
    touches: Touches
    read_cache: ReadCache
    space: Space
    background: Background
    pressure: asyncio.Event = field(default_factory=asyncio.Event)  # eviction is wanted now
    refused_ms: int | None = None  # when an upload was last refused for want of room
    told_of_room_s: float | None = None  # when the log was told of one
    asides: dict[Digest, asyncio.Task[Aside]] = field(default_factory=dict)  # of set_aside_soon

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
        self.metrics.refused_for_room.inc()
        self._complain_of_room()
        self.epoch.want(size_bytes)
        self.pressure.set()

    def _complain_of_room(self) -> None:
        now_s = self.clock.monotonic_s()
        if self.told_of_room_s is None or now_s - self.told_of_room_s > _TELL_EVERY_S:
            self.told_of_room_s = now_s
            _log.warning(
                "write_refused_for_room",
                held_bytes=self.space.stored_bytes,
                quota_bytes=self.space.quota_bytes,
                do="what was used within storage.lease is not evicted: raise the quota, shorten "
                "the lease, or find out who writes so much",
            )

    async def set_aside(self, digest: Digest, seq: int, damage: Damage) -> None:
        """Quarantine a blob found damaged; from then on it is missing.

        A caller that is cancelled leaves it going on: every process has to hear of it.

        Raises SourceUnavailable where the blob stays, because it may be right.
        """
        self.set_aside_soon(digest, seq, damage)
        if (task := self.asides.get(digest)) is not None:
            await asyncio.wait({task})
            if not task.cancelled() and task.result() is Aside.NO_ROOM:
                raise SourceUnavailable("disk", f"blob {digest} {damage}")

    async def _set_aside(self, digest: Digest, seq: int, damage: Damage) -> Aside:
        """Never raises: what cannot be set aside is not served either, as every read checks it."""
        reason = str(damage)

        def work(transaction: Transaction) -> Aside:
            return quarantine(transaction, self.directory, digest, seq, damage)

        try:
            outcome = await self.writer.submit(work)
        except FederationError as error:
            _log.error("blob_damaged", digest=str(digest), reason=reason, kept_because=str(error))
            return Aside.DONE if damage.is_proven else Aside.NO_ROOM
        if outcome is Aside.DONE:
            self.epoch.bump()
            self.metrics.quarantined.inc()
            _log.error("blob_quarantined", digest=str(digest), reason=reason)
        elif outcome is Aside.NO_ROOM:
            why = outcome.value
            _log.error("blob_damaged", digest=str(digest), reason=reason, kept_because=why)
        return outcome

    def set_aside_soon(self, digest: Digest, seq: int, damage: Damage) -> None:
        """Do the same without making the caller wait.

        Raises SourceUnavailable where so much is damaged that it is not believed any more.
        """
        now_s, held = self.clock.monotonic_s(), self.writer.totals.blobs
        volume, is_proven = self.directory.volume, damage.is_proven
        if not volume.breaker.admit(now_s, digest, seq, held, is_proven=is_proven):
            raise SourceUnavailable("blobs/", volume.breaker.trouble)
        task = self.background.start(self._set_aside(digest, seq, damage), "quarantine")
        self.asides[digest] = task

        def ended(task: asyncio.Task[Aside]) -> None:
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
            self.writer.fail(damaged(reason))
        _log.error("catalogue_read_failed", reason=reason)
        return SourceUnavailable("catalogue", reason)
