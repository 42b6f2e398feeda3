"""Runs the scheduled pulls of the configuration, in the one process of a storage that fetches.

A pull begins when its window opens, pauses while the window is closed, and begins again at the
first opening after its end. Where a process ended in the middle, the next one begins anew; what is
here then costs a look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from federation.config.upstreams import ScheduledPull
from federation.core.clock import Clock, utc_text
from federation.core.errors import FederationError
from federation.core.pace import Pace
from federation.core.sole_role import SoleRole
from federation.core.tasks import Background
from federation.core.wanted import Wanted, parse_list, parse_wanted
from federation.core.window import Window
from federation.observability.metrics import Metrics
from federation.upstream.warmer import PullOutcome, Warmer, WarmReport, WarmScope

LIST_MAX_BYTES = 64 * 2**20
_LOOK_EVERY_S = 5.0
_RUNNING_MAX = 4  # further ones wait
_PROBLEMS_SHOWN = 20

_log = structlog.get_logger(__name__)


def read_list(path: Path) -> list[Wanted]:
    """Read a file of names; blocks. Raises OSError, ValueError (with the number of the line)."""
    with path.open("rb") as file:
        # The byte beyond shows a list that is too long, without reading all of it.
        data = file.read(LIST_MAX_BYTES + 1)
    if len(data) > LIST_MAX_BYTES:
        raise ValueError(f"{path} has more than {LIST_MAX_BYTES} bytes")
    return parse_list(data.decode().splitlines())


class _Job:
    """One scheduled pull, over all its runs."""

    def __init__(self, settings: ScheduledPull, clock: Clock) -> None:
        self.settings = settings
        self.window = Window.parse(settings.window)
        self.pace = Pace(clock, bytes_s=settings.limit_rate, window=self.window)
        self.task: asyncio.Task[None] | None = None
        self.report = WarmReport()
        self.error = ""
        self.ended_s: float | None = None

    @property
    def is_running(self) -> bool:
        return self.task is not None and not self.task.done()

    def is_due(self, wall_s: float) -> bool:
        """Whether a window is open that opened after the last run had ended."""
        if self.is_running or not self.window.is_open(wall_s):
            return False
        opened_s = wall_s - self.window.opened_ago_s(wall_s)
        # A run that ended in this window is done until the next one opens.
        return self.ended_s is None or opened_s > self.ended_s

    def describe(self) -> dict[str, Any]:
        state = "waiting"
        if self.is_running:
            state = "running" if not self.pace.opens_in_s else "paused until the window opens"
        report = self.report
        return {
            "name": self.settings.name,
            "window": self.settings.window,
            "state": state,
            "names": report.names,
            "whole": report.whole,
            "not-found": report.not_found,
            "incomplete": report.incomplete,
            "brought-bytes": report.brought.size_bytes,
            "last-ended": None if self.ended_s is None else utc_text(self.ended_s),
            "problems": [f"{name}: {why}" for name, why in report.problems[:_PROBLEMS_SHOWN]],
            **({"error": self.error} if self.error else {}),
        }


class PullSchedule:
    """See above. Its jobs are those of the last apply()."""

    def __init__(
        self, make_warmer: Callable[[Pace], Warmer], lead: SoleRole, metrics: Metrics, clock: Clock
    ) -> None:
        """make_warmer: called for each run; the run closes what it returns."""
        self._make_warmer = make_warmer
        self._lead = lead
        self._metrics = metrics
        self._clock = clock
        self._jobs: list[_Job] = []
        self._background = Background()
        for outcome in PullOutcome:  # each series begins at 0
            metrics.fetching.scheduled_names.labels(result=outcome.value)

    def __repr__(self) -> str:
        return f"<PullSchedule {self._running} of {len(self._jobs)} run>"

    @property
    def _running(self) -> int:
        return sum(job.is_running for job in self._jobs)

    def apply(self, schedule: Sequence[ScheduledPull]) -> None:
        """Use these from now on. One that is unchanged goes on; others are stopped."""
        known = {job.settings.name: job for job in self._jobs}
        jobs = []
        for settings in schedule:
            job = known.get(settings.name)
            # A changed list or window is another pull, and runs at its own next opening.
            if job is None or job.settings != settings:
                job = _Job(settings, self._clock)
            jobs.append(job)
        for job in self._jobs:
            if job not in jobs and job.task is not None:
                job.task.cancel()
        self._jobs = jobs

    def describe(self) -> list[dict[str, Any]]:
        """Return what `status` shows of each."""
        return [job.describe() for job in self._jobs]

    async def run(self) -> None:
        """Begin what is due, until cancelled."""
        while True:
            self.begin_due()
            await self._clock.sleep(_LOOK_EVERY_S)

    def begin_due(self) -> None:
        """Begin what is due, if this process is the one that fetches; else stop what runs."""
        now_s = self._clock.wall_s()
        for job in self._jobs:
            if not self._lead.holds_lead():
                # The process that leads now has begun this pull anew.
                if job.task is not None:
                    job.task.cancel()
            # Those beyond the bound stay due, and begin as soon as another has ended.
            elif job.is_due(now_s) and self._running < _RUNNING_MAX:
                job.task = self._background.start(self._run(job), f"pull {job.settings.name}")

    async def close(self) -> None:
        """Stop everything; what was brought stays."""
        await self._background.close()

    async def _run(self, job: _Job) -> None:
        job.report, job.error = WarmReport(), ""
        _log.info("scheduled_pull_begins", pull=job.settings.name)
        try:
            await self._pull(job)
        # All of these are the operator's to mend (a list that is gone, a bad line, a full disk).
        except (OSError, ValueError, FederationError) as error:
            job.error = str(error)
        except Exception as error:  # noqa: BLE001 - otherwise it would begin again at once
            job.error = f"unexpected {type(error).__name__}: {error}"
        if job.error:
            _log.error("scheduled_pull_failed", pull=job.settings.name, reason=job.error)
        # After a failure, too: it is tried at the next opening, and not every five seconds. A
        # cancelled run has not ended, and begins again where it is due.
        job.ended_s = self._clock.wall_s()
        self._note_end(job)

    async def _pull(self, job: _Job) -> None:
        """Bring everything that is named. Raises OSError, ValueError: the list."""
        warmer = self._make_warmer(job.pace)
        try:
            wanted = [parse_wanted(text) for text in job.settings.names]
            if job.settings.from_list is not None:
                # Read at each run: whoever makes the list need not know of the node.
                wanted += await asyncio.to_thread(read_list, job.settings.from_list)
            await warmer.run(wanted, WarmScope(job.settings.instance), job.report)
        finally:
            await warmer.close()

    def _note_end(self, job: _Job) -> None:
        report = job.report
        counts = {
            PullOutcome.WHOLE: report.whole,
            PullOutcome.NOT_FOUND: report.not_found,
            PullOutcome.INCOMPLETE: report.incomplete,
        }
        for outcome, count in counts.items():
            self._metrics.fetching.scheduled_names.labels(result=outcome.value).inc(count)
        self._metrics.fetching.scheduled_bytes.inc(report.brought.size_bytes)
        _log.info(
            "scheduled_pull_ended",
            pull=job.settings.name,
            brought_bytes=report.brought.size_bytes,
            **{outcome.value.replace("-", "_"): count for outcome, count in counts.items()},
        )
