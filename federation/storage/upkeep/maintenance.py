"""What only one process on a data directory does: evict, sweep, scrub, keep pins, trim the log.

It holds the maintenance lock, a kernel lock: if it is killed, another process takes over at once.
Eviction pauses for one lease period after a process was killed, because its leases are unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import apsw
import structlog

from federation.core.errors import FederationError
from federation.core.tasks import Background
from federation.observability.rate_limits import Complaints
from federation.storage.catalogue import footprint, instances
from federation.storage.catalogue.transaction import DONE, HOLD, REQUEST, get_meta, set_meta
from federation.storage.context import StorageContext
from federation.storage.directory_pins import DirectoryKeepings, DirectoryPins
from federation.storage.processes import dead_runs, remove_dead
from federation.storage.shared_memory import FileLock
from federation.storage.space import Reserve
from federation.storage.upkeep import retention
from federation.storage.upkeep.eviction import Evictor
from federation.storage.upkeep.expiry import Expiry
from federation.storage.upkeep.flusher import Flusher
from federation.storage.upkeep.pin_keeper import PinKeeper
from federation.storage.upkeep.redating import Redating
from federation.storage.upkeep.scrub import Scrubber
from federation.storage.upkeep.sweep import Sweeper

_SWEEP_EVERY_S = 6 * 3600.0
_TRIM_EVERY_S = 60.0
_HELD = "all that may be evicted is gone; the rest is leased, pinned or kept for peers"
_EVERYTHING_BYTES = 2**62
_GIVEN_BACK_A_TICK = 8  # times footprint.give_back
_HELD_REST = 20.0  # a search that found nothing is repeated after 20 times its duration

_log = structlog.get_logger(__name__)


class Maintenance:
    """Background work of one process on a data directory."""

    def __init__(self, core: StorageContext, flusher: Flusher) -> None:
        self._core = core
        self._flusher = flusher
        self._lock = FileLock(core.directory.maintenance_lock)
        self._evictor = Evictor(core)
        self._sweeper = Sweeper(core)
        self._scrubber = Scrubber(core)
        self._redating = Redating(core)
        self._reserve = Reserve(core.directory, core.settings)
        self._log_trimmer = retention.LogTrimmer(core)
        self._expiry = Expiry(core)
        self.pin_keeper = PinKeeper(DirectoryPins(core), DirectoryKeepings(core), core.clock)
        self._background = Background()
        self._holder_tasks = Background()  # the tasks that only the holder of the lock runs
        self._next_sweep_s = self._next_trim_s = self._held_until_s = 0.0
        self._sweeping: asyncio.Task[Any] | None = None
        self._complaints = Complaints(_log, core.clock)
        self.held_back = ""  # why eviction does not free more, for operators

    def __repr__(self) -> str:
        return f"<Maintenance {'holder' if self._lock.held else 'waiting'} {self._evictor!r}>"

    @property
    def is_holder(self) -> bool:
        """Whether this process holds the maintenance lock."""
        return self._lock.held

    @property
    def eviction_pending(self) -> bool:
        """Whether marked blobs wait to be deleted."""
        return self._evictor.is_pending

    def start(self) -> None:
        """Start the background work; close() ends it."""
        self._keep(self._background, self._tick_loop, "maintenance", let_go=self._release)

    def _keep(
        self,
        background: Background,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        **more: Any,
    ) -> asyncio.Task[Any]:
        return background.keep(work, name, self._core.clock, self._core.metrics.failing, **more)

    async def _release(self) -> None:
        """Release the lock after a failure, so that this or another process starts over."""
        await self._holder_tasks.close()
        self._lock.release()
        self._evictor = Evictor(self._core)

    async def try_to_hold(self) -> bool:
        """Take the maintenance lock for a command; return False if another process holds it."""
        if not await self._core.pool.run_or_undo(self._lock.acquire, self._lock.release):
            return False
        await self._evictor.load_marks()
        return True

    async def delete_due(self) -> int:
        """Delete the blobs that were marked long enough ago; return the freed bytes."""
        return await self._evictor.sweep_due()

    async def sweep_all(self) -> int:
        """Remove unfinished uploads and stray files now; return how many."""
        removed = await self._sweeper.incoming()
        for number in range(256):
            removed += await self._sweeper.folder(number)
        return removed

    async def close(self) -> None:
        """Stop the background work and release the lock."""
        await self._background.close()
        await self._holder_tasks.close()
        self._lock.release()

    async def _tick_loop(self) -> None:
        tick_s = min(1.0, self._core.timing.grace_ms / 4000)
        while True:
            try:
                await self._tick()
            except (FederationError, OSError, apsw.Error) as error:
                # A full disk, a lost race for a lock, a damaged catalogue: the next tick retries.
                self._complaints.warn("maintenance_failed", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(tick_s):
                    await self._core.pressure.wait()
            await asyncio.sleep(tick_s / 10)  # limits the rate while many uploads are refused

    async def _tick(self) -> None:
        await self._flusher.measure()
        if self._core.directory.volume.trouble:
            return  # while the volume is in doubt, nothing is removed
        # By every process, of what its own failures left; the rest is the holder's.
        await self._sweep_unsettled()
        if not self._lock.held:
            if not await self._core.pool.run_or_undo(self._lock.acquire, self._lock.release):
                return
            _log.info("maintenance_taken_over", run=self._core.run.id)
            self._keep(self._holder_tasks, self._scrubber.run, "scrub")
            self._keep(self._holder_tasks, self.pin_keeper.run, "pins")
            self._keep(self._holder_tasks, self._expiry.run, "expiry")
        await self._remove_dead()
        await self._evict_to_watermark()
        await self._serve_request()
        await self._tidy()
        await self._redating.check()

    async def _sweep_unsettled(self) -> None:
        unsettled = self._core.writer.take_unsettled()
        try:
            for number in sorted(unsettled):
                await self._sweeper.folder(number)
                unsettled.discard(number)
        finally:
            self._core.writer.leave_unsettled(unsettled)

    async def _remove_dead(self) -> None:
        """Pause eviction for a lease period if a process was killed, and remove its files."""
        if dead := await self._core.pool.run(self._dead):
            _log.warning("process_died", runs=dead, eviction_pauses_s=self._core.settings.lease)
            until_ms = self._core.now_ms() + self._core.timing.lease_ms
            await self._core.writer.submit(lambda tx: set_meta(tx, HOLD, until_ms))
            self._core.epoch.bump()  # the process may have set blobs aside without saying so
            await self._core.pool.run(remove_dead, self._core.directory, dead)

    def _dead(self) -> list[str]:
        lock = FileLock(self._core.directory.open_lock)
        if not lock.acquire():
            return []  # a process is just opening the directory, and does the same
        try:
            return dead_runs(self._core.directory)
        finally:
            lock.release()

    async def _evict_to_watermark(self) -> None:
        if await self._is_held_back():
            # Marks were made by what was known before the death; leases of the dead may be on them.
            await self._evictor.unmark_all()
            return
        if self._core.space.stored_bytes > self._core.space.marks.starts_at_bytes:
            await self.trim_log()  # log rows go before objects that clients may want
        with self._reserve.as_last_resort():
            await self._evictor.sweep_due()
        core = self._core
        # Before the room is measured: a refusal from now on brings the next look at once.
        core.pressure.clear()
        wanted = core.epoch.take_wanted()
        quota, starts_at, target = core.space.marks
        stored, received = core.space.stored_bytes, core.space.reserved_bytes
        if stored + received > starts_at or wanted:
            # Uploads under way will be stored soon: make room for them already.
            await self.evict(
                target if stored > starts_at or wanted else starts_at,
                room_bytes=min(starts_at, quota - received - wanted),
                with_received_bytes=min(starts_at, quota - wanted),
            )

    async def _is_held_back(self) -> bool:
        """Return whether unknown leases of a killed process may still be valid."""
        hold_ms = await self._core.pool.query(get_meta, HOLD)
        left_ms = (hold_ms or 0) - self._core.now_ms()
        why = f"a process died; its leases end in {left_ms / 1000:.0f} s"
        self.held_back = why if left_ms > 0 else ""
        return left_ms > 0

    async def evict(
        self,
        target_bytes: int,
        *,
        room_bytes: float | None = None,
        with_received_bytes: int | None = None,
    ) -> int:
        """Mark blobs until those not marked fit target_bytes; return the bytes marked now.

        room_bytes: if they do not fit because objects are pinned for peers, give up one peer after
        the other until they fit room_bytes. None: give up no peer; the quota is not at stake.
        with_received_bytes: a second target, for stored bytes and uploads under way together. None:
        uploads do not count.
        """
        if await self._is_held_back():
            return 0
        begun_s = self._core.clock.monotonic_s()
        if begun_s < self._held_until_s:
            self.held_back = _HELD
            return 0
        marked = 0
        with self._reserve.as_last_resort():
            while (need := self._excess_bytes(target_bytes, with_received_bytes)) > 0:
                size = await self._evictor.mark(need)
                marked += size
                if not size and not await self._give_up_a_peer(room_bytes):
                    break
        if self.held_back == _HELD and self._core.settings.when_full == "refuse":
            took_s = self._core.clock.monotonic_s() - begun_s  # the search found nothing
            self._held_until_s = begun_s + took_s * _HELD_REST
        return marked

    def _excess_bytes(self, target_bytes: int, with_received_bytes: int | None) -> int:
        """Return how many more bytes must be marked. Uploads become stored bytes meanwhile."""
        space = self._core.space
        if target_bytes <= 0 and space.stored_bytes > 0:
            return _EVERYTHING_BYTES  # the cost of marked blobs is only an estimate
        stored = space.stored_bytes - self._evictor.pending_bytes
        excess = stored - max(0, target_bytes)
        if with_received_bytes is not None:
            with_received = stored + space.reserved_bytes - max(0, with_received_bytes)
            excess = max(excess, min(with_received, stored))
        return excess

    async def _give_up_a_peer(self, room_bytes: float | None) -> bool:
        """Hold nothing for one peer any more if only such objects are left; return whether."""
        if not await self._evictor.holds_for_peers():
            self.held_back = "all that may be evicted is gone; the rest is leased or pinned"
            return False
        left = self._core.space.stored_bytes - self._evictor.pending_bytes
        fits = room_bytes is None or left <= room_bytes
        if fits or self._core.settings.when_full == "refuse":
            self.held_back = _HELD
            return False
        record = await self._core.writer.submit(retention.give_up_one)
        if record is None:
            return False  # the peers have just caught up; the next tick tries again
        retention.report_given_up(
            self._core.metrics, record, retention.NO_ROOM, self._core.head.value
        )
        self._evictor.rewind()
        return True

    async def _serve_request(self) -> None:
        """Carry out what `federation gc` in another process has requested."""
        text = await self._core.pool.query(get_meta, REQUEST)
        if not text:
            return
        try:
            request: dict[str, Any] = json.loads(text)
            target_bytes = int(request["target_bytes"])
        except (ValueError, LookupError, TypeError) as error:
            _log.error("collect_request_unreadable", request=str(text), reason=str(error))
            await self._core.writer.submit(lambda tx: set_meta(tx, REQUEST, None))
            return
        await self.evict(target_bytes)
        if not self._evictor.is_pending:
            done = json.dumps({"id": request["id"], "held_back": self.held_back})
            await self._core.writer.submit(lambda tx: set_meta(tx, REQUEST, None))
            await self._core.writer.submit(lambda tx: set_meta(tx, DONE, done))

    async def _tidy(self) -> None:
        now_s, keep_s = self._core.clock.monotonic_s(), self._core.settings.purge_keep
        if now_s >= self._next_trim_s or self._log_trimmer.is_due:
            self._next_trim_s = now_s + _TRIM_EVERY_S
            await self._core.pool.run(self._reserve.make)
            await self.trim_log()
            await self._core.writer.submit(partial(retention.forget_purges, keep_s=keep_s))
            await self._core.writer.submit(instances.forget_unused)
        await self._give_back()
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + _SWEEP_EVERY_S
            if self._sweeping is None or self._sweeping.done():
                self._sweeping = self._keep(self._holder_tasks, self._sweep, "sweep")

    async def _give_back(self) -> None:
        """Give free pages of the catalogue back to the disk, a few at a time; keep some spare."""
        spare = footprint.spare_pages(self._core.space.quota_bytes)
        for _ in range(_GIVEN_BACK_A_TICK):
            if not await self._core.pool.run(self._has_free, spare):
                return
            await self._core.writer.submit(footprint.give_back)

    def _has_free(self, spare: int) -> bool:
        return footprint.free_to_give(self._core.pool.connection()) > spare

    async def _sweep(self) -> None:
        await self._sweeper.incoming()
        for number in range(256):
            await self._sweeper.folder(number)
            await self._core.clock.sleep(0.01)

    async def trim_log(self) -> None:
        """See LogTrimmer."""
        await self._log_trimmer.trim()
