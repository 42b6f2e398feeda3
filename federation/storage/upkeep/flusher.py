"""What every process on a data directory does regularly: write touches, measure the room left."""

from __future__ import annotations

import apsw
import structlog

from federation.core.errors import FederationError
from federation.core.tasks import Background
from federation.observability.rate_limits import Complaints
from federation.storage.catalogue import footprint, keepings
from federation.storage.catalogue.footprint import Footprint
from federation.storage.catalogue.transaction import Totals, read_totals
from federation.storage.context import StorageContext
from federation.storage.quarantine import kept_bytes
from federation.storage.space import Disk, in_all, marks, measure_disk

_log = structlog.get_logger(__name__)


class Flusher:
    """Writes the touches of one process, and measures the room for it."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._background = Background()
        self._complaints = Complaints(_log, core.clock)

    def start(self) -> None:
        """Start writing touches regularly; close() ends it."""
        self._background.keep(
            self._flush_loop, "touch-flush", self._core.clock, self._core.metrics.failing
        )

    async def close(self) -> None:
        """Stop, and write the last touches."""
        await self._background.close()
        await self.flush()

    async def _flush_loop(self) -> None:
        clock, every_s = self._core.clock, self._core.timing.flush_ms / 1000
        took_s = 0.0
        while True:
            # Touches that gathered during a slow flush have waited already, and delay leases.
            await clock.sleep(max(0.0, every_s - took_s))
            begun_s = clock.monotonic_s()
            await self.flush()
            took_s = clock.monotonic_s() - begun_s

    async def flush(self) -> None:
        """Write the gathered touches. If that fails they are kept, and no new leases are given."""
        batch = self._core.touches.take()
        # Ended all the same, or the empty batch would count as being written.
        if not batch:
            self._core.touches.flushed()
            return
        try:
            waited_max_ms = self._core.timing.unflushed_max_ms
            await self._core.writer.submit(
                lambda tx: batch.write(tx.connection, tx.now_ms - waited_max_ms)
            )
        except FederationError as error:
            self._core.touches.failed()
            self._complaints.warn("touches_not_written", error)
        # A cancelled flush may have been written or not; writing times twice does no harm.
        except BaseException:
            self._core.touches.failed()
            raise
        else:
            self._core.touches.flushed()

    async def measure(self) -> None:
        """Update Space and the metrics from the catalogue's totals and the disk.

        Errors are logged, and the last measurements stay.
        """
        try:
            found_now = await self._core.pool.run(self._measure)
        except (apsw.Error, OSError) as error:
            self._complaints.warn("room_not_measured", error)
            return
        disk, totals, taken, overhead_bytes, quarantine_bytes, pinned_bytes = found_now
        # This is what corrects a number that was lost in shared memory: see LogEnd.
        self._core.head.note(totals.seq)
        settings = self._core.settings
        found = marks(settings, disk, taken.held, overhead_bytes)
        writer, held_bytes = self._core.writer, taken.held
        if totals.seq < writer.totals.seq:  # measured before a commit that has ended meanwhile
            held_bytes = writer.held_bytes
        self._core.space.update(
            stored_bytes=held_bytes, marks=found, keep_free_bytes=settings.reserve or None
        )
        metrics = self._core.metrics
        metrics.stored_bytes.set(totals.size_bytes)
        metrics.stored_blobs.set(totals.blobs)
        metrics.stored_entries.set(totals.entries)
        metrics.quota_bytes.set(in_all(settings, found, overhead_bytes))
        metrics.held_bytes.set(taken.held)
        metrics.overhead_bytes.set(overhead_bytes + taken.free)
        metrics.quarantine_bytes.set(quarantine_bytes)
        metrics.keeping.pinned_bytes.set(pinned_bytes)

    def _measure(self) -> tuple[Disk, Totals, Footprint, int, int, int]:
        directory, connection = self._core.directory, self._core.pool.connection()
        totals = read_totals(connection)
        taken = footprint.measure(connection, totals)
        quarantine_bytes = kept_bytes(directory)
        overhead_bytes = footprint.overhead(directory.root, quarantine_bytes)
        disk, pinned_bytes = measure_disk(directory.root), keepings.total_bytes(connection)
        return disk, totals, taken, overhead_bytes, quarantine_bytes, pinned_bytes
