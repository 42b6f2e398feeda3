"""A scheduled pull runs once for each opening of its window, in the process that fetches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from federation.config.upstreams import ScheduledPull
from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.core.pace import Pace
from federation.core.wanted import Wanted
from federation.observability.metrics import Metrics
from federation.upstream.bringing import Brought
from federation.upstream.pull_schedule import PullSchedule, read_list
from federation.upstream.warmer import PullOutcome, Warmer, WarmReport, WarmScope
from tests.support.samples import sample_value
from tests.upstream.fakes import until

DAY_S = 86_400
BLOB = str(digest_of(b"data"))


class FakeLead:
    """See federation.core.sole_role.SoleRole."""

    held = True

    def try_to_lead(self) -> bool:
        return self.held

    def holds_lead(self) -> bool:
        return self.held


class FakeStore:
    brought = Brought(3, 500)


class FakeWarmer:
    """Notes its runs, which end when the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.runs: list[tuple[Sequence[Wanted], WarmScope]] = []
        self.paces: list[Pace] = []
        self.closed = 0
        self.store = FakeStore()

    def make(self, pace: Pace) -> Warmer:
        self.paces.append(pace)
        return cast("Warmer", self)

    async def run(self, wanted: Sequence[Wanted], scope: WarmScope, report: WarmReport) -> None:
        self.runs.append((wanted, scope))
        report.names, report.store = len(wanted), cast("Any", self.store)
        await self.gate.wait()
        for each in wanted:
            report.note(each, PullOutcome.WHOLE, "")

    async def close(self) -> None:
        self.closed += 1


class Site:
    """A schedule whose clock the test moves."""

    def __init__(self, **settings: object) -> None:
        wall_s = datetime(2030, 1, 1, 12, 0).timestamp()
        self.clock = ManualClock(wall_s=wall_s)
        self.lead = FakeLead()
        self.warmer = FakeWarmer()
        self.metrics = Metrics()
        self.schedule = PullSchedule(self.warmer.make, self.lead, self.metrics, self.clock)
        self.schedule.apply([pull(**settings)])

    @property
    def shown(self) -> dict[str, Any]:
        (found,) = self.schedule.describe()
        return found

    async def at(self, hours: float) -> None:
        """Move to so many hours after noon of the first day, and let what is due end."""
        noon_s = datetime(2030, 1, 1, 12, 0).timestamp()
        self.clock.step_wall(noon_s + hours * 3600 - self.clock.wall_s())
        self.schedule.begin_due()
        await self.settled()

    async def settled(self) -> None:
        if self.warmer.gate.is_set():
            await until(lambda: self.shown["state"] == "waiting")
        else:
            await until(lambda: len(self.warmer.runs) > 0)


def pull(**settings: object) -> ScheduledPull:
    base = {"name": "nightly", "window": "20:00-06:00", "names": [BLOB]}
    return ScheduledPull.model_validate({**base, **settings})


async def test_it_runs_once_for_each_opening() -> None:
    site = Site(instance="main", names=[BLOB, "urn:a"])
    runs = []
    for hours in (0, 7.9, 8, 9, 17.9, 18, 31, 33):
        await site.at(hours)
        runs.append(len(site.warmer.runs))
    assert runs == [0, 0, 1, 1, 1, 1, 1, 2]
    wanted, scope = site.warmer.runs[0]
    assert ([str(each) for each in wanted], scope.instance) == ([BLOB, "urn:a"], "main")
    assert site.warmer.closed == 2
    value = partial(sample_value, site.metrics)
    assert value("federation_scheduled_pull_names_total", {"result": "whole"}) == 4
    assert value("federation_scheduled_pull_bytes_total") == 1000
    assert (site.shown["whole"], site.shown["brought-bytes"]) == (2, 500)
    await site.schedule.close()


async def test_a_process_that_starts_in_the_window_begins_at_once() -> None:
    site = Site(window="11:00-13:00")
    await site.at(0)
    assert len(site.warmer.runs) == 1
    await site.schedule.close()


async def test_a_run_that_lasts_longer_than_its_window_is_one_run() -> None:
    site = Site(window="11:00-13:00")
    site.warmer.gate.clear()
    await site.at(0)
    assert site.shown["state"] == "running"
    await site.at(2)
    assert site.shown["state"] == "paused until the window opens"
    await site.at(23)
    assert len(site.warmer.runs) == 1
    site.warmer.gate.set()
    await site.settled()
    await site.at(24)  # this opening began before the run ended
    assert len(site.warmer.runs) == 1
    await site.at(47)
    assert len(site.warmer.runs) == 2
    await site.schedule.close()


async def test_only_the_process_that_fetches_runs_it() -> None:
    site = Site(window="11:00-13:00")
    site.lead.held = False
    await site.at(0)
    assert site.warmer.runs == []
    site.lead.held = True
    site.warmer.gate.clear()
    await site.at(0.1)
    site.lead.held = False
    site.schedule.begin_due()
    await until(lambda: site.warmer.closed == 1)
    await site.schedule.close()


async def test_a_reload_stops_what_is_gone_or_changed_and_leaves_the_rest() -> None:
    site = Site(window="11:00-13:00")
    site.schedule.apply([pull(window="11:00-13:00"), pull(name="other", window="11:00-13:00")])
    site.warmer.gate.clear()
    site.schedule.begin_due()
    await until(lambda: len(site.warmer.runs) == 2)
    site.schedule.apply([pull(window="11:00-13:00"), pull(name="other", window="10:00-13:00")])
    await until(lambda: site.warmer.closed == 1)
    site.schedule.apply([])
    await until(lambda: site.warmer.closed == 2)
    assert site.schedule.describe() == []
    await site.schedule.close()


async def test_only_a_few_run_at_once() -> None:
    site = Site(window="11:00-13:00")
    site.schedule.apply([pull(name=f"{n}", window="11:00-13:00") for n in range(6)])
    site.warmer.gate.clear()
    site.schedule.begin_due()
    await until(lambda: len(site.warmer.runs) == 4)
    site.schedule.begin_due()
    assert [each["state"] for each in site.schedule.describe()].count("running") == 4
    site.warmer.gate.set()
    await until(lambda: site.warmer.closed == 4)
    site.schedule.begin_due()
    await until(lambda: site.warmer.closed == 6)
    await site.schedule.close()


async def test_a_list_is_read_at_each_run_and_one_that_is_wrong_is_told(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    site = Site(window="11:00-13:00", names=[], **{"from-list": path})
    await site.at(0)
    assert "No such file" in site.shown["error"]
    _write(path, "nonsense\n")
    await site.at(24)
    assert site.shown["error"].startswith("line 1: 'nonsense' cannot be fetched")
    _write(path, f"# names\nurn:a\n{BLOB}\n")
    await site.at(48)
    assert "error" not in site.shown
    assert [str(each) for each in site.warmer.runs[-1][0]] == ["urn:a", BLOB]
    await site.schedule.close()


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_list_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.upstream.pull_schedule.LIST_MAX_BYTES", 10)
    path = tmp_path / "list.txt"
    _write(path, "urn:a\nurn:b\n")
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_list(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="decode"):
        read_list(path)
