"""Adds what a process does to its file of statistics, every few seconds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from federation.core.clock import Clock
from federation.core.tasks import Background, FailingWork
from federation.observability.statistics.files import StatisticsSlot
from federation.observability.statistics.history import Changes, History, HistoryDamaged

_EVERY_S = 15.0
_RATE_OVER = 4  # rounds: a rate is that of the last minute

_log = structlog.get_logger(__name__)


class StatisticsRecorder:
    """Owns the file of this process. Use it from one event loop."""

    def __init__(self, folder: Path, changes: Callable[[], Changes], clock: Clock) -> None:
        """changes: returns what happened since it was last called."""
        self._folder = folder
        self._changes = changes
        self._clock = clock
        self._history = History()
        self._tasks = Background()
        self._slot: StatisticsSlot | None = None
        self._is_unwritten = False
        self._writing: asyncio.Future[None] | None = None
        self._is_failing = False
        self._calls: deque[tuple[float, int]] = deque(maxlen=_RATE_OVER)  # seconds, calls
        self._counted_s = clock.monotonic_s()

    def __repr__(self) -> str:
        return f"<StatisticsRecorder {self._slot!r}>"

    @property
    def calls_per_s(self) -> float:
        """Calls a second over the last minute."""
        seconds = sum(each[0] for each in self._calls)
        return sum(each[1] for each in self._calls) / seconds if seconds else 0.0

    def start(self, failing: FailingWork) -> None:
        """Begin to record now and then."""
        self._tasks.keep(self._run, "statistics", self._clock, failing)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(_EVERY_S)
            await self.record()

    async def record(self) -> None:
        """Count what happened since the last time, and write it if anything did."""
        self._count()
        if self._is_unwritten:
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._write))
            await asyncio.shield(self._writing)  # a thread cannot be cancelled

    async def close(self) -> None:
        """Write the last counts and release the file."""
        await self._tasks.close()
        # Its thread may go on after the task was cancelled, and both would write one file.
        if self._writing is not None:
            await asyncio.wait({self._writing})
        await self.record()
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    def _count(self) -> None:
        now_s = self._clock.monotonic_s()
        changes = {
            series: nonzero
            for series, counts in self._changes().items()
            if (nonzero := {name: count for name, count in counts.items() if count})
        }
        calls = changes.get("node/", {}).get("calls", 0)
        self._calls.append((now_s - self._counted_s, calls))
        self._counted_s = now_s
        if changes:
            self._history.add(changes, self._clock.wall_s())
            self._is_unwritten = True

    def _write(self) -> None:
        """Write all counts; blocks.

        A disk that cannot be written costs nothing but the statistics: what is counted stays in
        memory and is tried again, and the log says so once.
        """
        try:
            if self._slot is None:
                self._slot = self._open()
            self._slot.write(self._history.to_text())
        except OSError as error:
            # Once, not every 15 seconds while a disk is full.
            if not self._is_failing:
                _log.warning("statistics_not_written", reason=error.strerror or str(error))
            self._is_failing = True
        else:
            self._is_unwritten = self._is_failing = False

    def _open(self) -> StatisticsSlot:
        """Take a file, and add what it has to what was counted."""
        slot = StatisticsSlot.take(self._folder)
        try:
            before = slot.read()
        except HistoryDamaged as error:
            _log.warning("statistics_damaged", reason=str(error), now="counted anew")
        except BaseException:
            slot.release()
            raise
        else:
            before.merge(self._history)
            # Only once it was read: what was counted so far is kept if that fails.
            self._history = before
        return slot
