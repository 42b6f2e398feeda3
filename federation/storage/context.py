"""What reading, receiving and maintenance of an open data directory share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import apsw
import structlog

from federation.config import model
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.tasks import Background
from federation.core.uses import Use
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LogLimit, once_a_minute
from federation.storage.access_times import Touches
from federation.storage.blob_files import Damage
from federation.storage.catalogue import purges
from federation.storage.catalogue.entry_changes import EntryChanges
from federation.storage.catalogue.failures import damaged
from federation.storage.catalogue.pool import Pool
from federation.storage.catalogue.resident import ResidentCatalogue
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import Transaction
from federation.storage.catalogue.writer import Writer
from federation.storage.directory import DataDirectory
from federation.storage.file_watch import FileWatch
from federation.storage.log_end import LogEnd
from federation.storage.processes import ProcessEntry
from federation.storage.quarantine import QuarantineOutcome, quarantine
from federation.storage.read_cache import ReadCache
from federation.storage.shared_memory import Epoch
from federation.storage.space import Space
from federation.storage.timing import StoreClock, Timing

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)
UsedPurge = tuple[purges.Name, int]  # a record, and when it was last used (store ms)
# Invalid text is damage, too, and a failing disk is treated like a damaged catalogue.
_DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, UnicodeDecodeError)


@dataclass(slots=True)
class StorageContext:
    """The shared parts; one per process and data directory. Used from the event loop."""

    directory: DataDirectory
    settings: model.StorageConfig
    clock: Clock
    store_clock: StoreClock
    timing: Timing
    metrics: Metrics
    run: ProcessEntry
    epoch: Epoch
    files: FileWatch
    head: LogEnd
    entry_changes: EntryChanges
    resident: ResidentCatalogue  # look-ups of few rows, on the event loop
    pool: Pool  # look-ups in the catalogue and hashing: nothing that waits long for a busy disk
    reads: Pool  # reads of blob files, which may be slow
    writes: Pool  # writes of blob files: a sync keeps its thread until the disk has finished
    writer: Writer
    touches: Touches
    read_cache: ReadCache
    space: Space
    background: Background
    pressure: asyncio.Event = field(default_factory=asyncio.Event)  # set to evict now
    refused_ms: int | None = None  # when an upload was last refused for lack of room
    room_lines: LogLimit = field(init=False)  # in the log, about such refusals
    quarantines: dict[Digest, asyncio.Task[QuarantineOutcome]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.room_lines = once_a_minute(self.clock)

    def now_ms(self) -> int:
        """Return store time."""
        return self.store_clock.now_ms()

    def is_late(self, asked_ms: int) -> bool:
        """Return whether a look-up that began at asked_ms took too long to answer "present".

        That answer gives a lease, but eviction may have marked and deleted the blob meanwhile.
        """
        return asked_ms < self.now_ms() - self.timing.unflushed_max_ms

    def is_behind(self) -> bool:
        """Return whether touches have been unwritten for so long that no lease may be given."""
        oldest_ms = self.touches.unflushed_since_ms()
        return oldest_ms is not None and self.is_late(oldest_ms)

    def lease(self, keys: Collection[bytes], asked_ms: int, use: Use = Use.CLIENT) -> None:
        """Record a use or a lease of blobs whose stored time is getting old."""
        if not keys:
            return
        if use is Use.CLIENT:
            self.touches.blobs(keys, asked_ms)
        elif use is Use.LEASE:
            self.touches.leased(keys, asked_ms)

    async def look_up(self, work: Callable[[apsw.Connection], _T]) -> _T:
        """Return what work finds of a few rows: at once where that is in memory, else in a thread.

        Raises SourceUnavailable.
        """
        try:
            found = self.resident.look(work)
            # None may also be what was found; then a thread finds the same once more.
            return await self.pool.query(work) if found is None else found
        except UNREADABLE as error:
            raise self.catalogue_unreadable(error) from error

    def note_purges_used(self, found: Iterable[UsedPurge]) -> None:
        """Record a use of purge records whose stored use is getting old."""
        now_ms = self.now_ms()
        old_ms = now_ms - purges.USED_EVERY_MS
        self.touches.purges((name for name, used_ms in found if used_ms < old_ms), now_ms)

    def note_refusal(self, size_bytes: int) -> None:
        """Record that an upload was refused for lack of room, and request eviction for its size."""
        self.refused_ms = self.now_ms()
        self.metrics.refused_for_room.inc()
        self._log_refusal()
        self.epoch.want(size_bytes)
        self.pressure.set()

    def _log_refusal(self) -> None:
        if self.room_lines.admit() is not None:
            _log.warning(
                "write_refused_for_room",
                held_bytes=self.space.stored_bytes,
                quota_bytes=self.space.quota_bytes,
                do="objects used within the lease are not evicted: raise the quota (that of the "
                "cache of a shared site's node is storage.cache), shorten storage.lease, or find "
                "the clients that write so much",
            )

    async def set_aside(self, digest: Digest, seq: int, damage: Damage) -> None:
        """Quarantine a damaged blob; from then on it is missing.

        The work continues if the caller is cancelled, so that every process learns of the damage.

        Raises SourceUnavailable if the blob may be right and therefore stays.
        """
        self.set_aside_soon(digest, seq, damage)
        if (task := self.quarantines.get(digest)) is not None:
            await asyncio.wait({task})
            if not task.cancelled() and task.result() is QuarantineOutcome.NO_ROOM:
                raise SourceUnavailable("disk", f"blob {digest} {damage}")

    async def _set_aside(self, digest: Digest, seq: int, damage: Damage) -> QuarantineOutcome:
        """Quarantine a blob. Never raises: each read finds the damage again and serves nothing."""
        reason = str(damage)

        def work(transaction: Transaction) -> QuarantineOutcome:
            return quarantine(transaction, self.directory, digest, seq, damage)

        try:
            outcome = await self.writer.submit(work)
        except FederationError as error:
            _log.error("blob_damaged", digest=str(digest), reason=reason, kept_because=str(error))
            # A proven one counts as missing all the same, since no read will serve it.
            return QuarantineOutcome.DONE if damage.is_proven else QuarantineOutcome.NO_ROOM
        # The epoch moves after the commit, so that no process remembers what it read before.
        if outcome is QuarantineOutcome.DONE:
            self.epoch.bump()
            self.metrics.quarantined.inc()
            _log.error("blob_quarantined", digest=str(digest), reason=reason)
        elif outcome is QuarantineOutcome.NO_ROOM:
            why = outcome.value
            _log.error("blob_damaged", digest=str(digest), reason=reason, kept_because=why)
        return outcome

    def set_aside_soon(self, digest: Digest, seq: int, damage: Damage) -> None:
        """Start to quarantine a damaged blob, without waiting for the end.

        Raises SourceUnavailable if so many blobs seem damaged that the disk is suspected instead.
        """
        now_s, held = self.clock.monotonic_s(), self.writer.totals.blobs
        volume, is_proven = self.directory.volume, damage.is_proven
        if not volume.breaker.admit(now_s, digest, seq, held, is_proven=is_proven):
            raise SourceUnavailable("blobs/", volume.breaker.trouble)
        task = self.background.start(self._set_aside(digest, seq, damage), "quarantine")
        self.quarantines[digest] = task

        def ended(task: asyncio.Task[QuarantineOutcome]) -> None:
            # A later report of the same blob may have taken its place.
            if self.quarantines.get(digest) is task:
                del self.quarantines[digest]

        task.add_done_callback(ended)

    async def wait_set_aside(self, digest: Digest) -> None:
        """Wait until set_aside_soon has finished with this blob, if it is at work on it."""
        if (task := self.quarantines.get(digest)) is not None:
            await asyncio.wait({task})

    def catalogue_unreadable(self, error: apsw.Error | UnicodeDecodeError) -> SourceUnavailable:
        """Log a failed catalogue read, and return the error to raise.

        If the catalogue is damaged, the writer stops for good.
        """
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, _DAMAGE):
            self.writer.fail(damaged(reason))
        _log.error("catalogue_read_failed", reason=reason)
        return SourceUnavailable("catalogue", reason)
