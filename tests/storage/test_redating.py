"""A clock that was wrong for a moment: what it dated is dated anew, and nothing else follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from federation.config.model import LimitsConfig
from federation.core.clock import SystemClock
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.observability.metrics import Metrics
from federation.storage.admin.verify import verify
from federation.storage.catalogue.hlc import DRIFT_S, is_too_far, ticks_at
from federation.storage.storage import Storage
from federation.storage.upkeep.dates_ahead import EARLIEST_S, STEADY_S
from federation.storage.upkeep.redating import Redating
from tests.storage.conftest import short, until

DAY_S = 86400.0


class WrongClock(SystemClock):
    """The machine's, off by what a test says."""

    def __init__(self) -> None:
        self.off_s = 0.0
        self.passed_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.off_s + self.passed_s

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.passed_s


@asynccontextmanager
async def served(path: Path, clock: WrongClock) -> AsyncIterator[Storage]:
    storage = await Storage.open(path, short(), LimitsConfig(), Metrics(), clock)
    try:
        yield storage
    finally:
        await storage.close()


def key_of(number: int) -> EntryKey:
    return EntryKey(EntryKind.ACTION_RESULT, "", b"name %d" % number)


async def push(storage: Storage, *numbers: int, value: bytes = b"value") -> None:
    await storage.put([Entry(key_of(number), value, "") for number in numbers])


async def stamps(storage: Storage, *numbers: int) -> list[Stamp]:
    found = await storage.get([key_of(number) for number in numbers])
    return [entry.stamp for entry in found if entry is not None]


def names_after(storage: Storage, seq: int) -> list[tuple[bytes, str]]:
    rows: Any = storage.core.pool.connection().execute(
        "SELECT name, via FROM log WHERE seq > ? ORDER BY seq", (seq,)
    )
    return list(rows)


async def redated(storage: Storage, clock: WrongClock, count: int) -> None:
    """Let the node notice, and enough time pass."""
    metrics = storage.core.metrics

    async def is_seen() -> bool:
        return float(metrics.dates_ahead.value) > DRIFT_S

    async def is_done() -> bool:
        return int(metrics.redated.value) == count

    await until(is_seen)
    clock.passed_s += STEADY_S + 1
    await until(is_done)


async def test_r19_after_a_moment_of_a_wrong_clock_pushes_are_dated_right(tmp_path: Path) -> None:
    clock = WrongClock()
    async with served(tmp_path, clock) as storage:
        clock.off_s = 400 * DAY_S
        await push(storage, 0)
        clock.off_s = 0
        await push(storage, *range(1, 41))
        right = await stamps(storage, *range(1, 41))
        assert len(right) == 40
        assert not any(is_too_far(each, clock.wall_s(), DRIFT_S) for each in right)


async def test_r19_what_a_wrong_clock_dated_is_dated_anew_and_logged_again(tmp_path: Path) -> None:
    clock = WrongClock()
    async with served(tmp_path, clock) as storage:
        await push(storage, 0)
        (good,) = await stamps(storage, 0)
        clock.off_s = 400 * DAY_S
        await push(storage, 1, 2)
        clock.off_s = 0
        await push(storage, 3)
        before = storage.core.writer.totals
        await redated(storage, clock, 2)
        assert await stamps(storage, 0) == [good]
        mended = await stamps(storage, 1, 2)
        assert not any(is_too_far(each, clock.wall_s(), DRIFT_S) for each in mended)
        assert min(mended).ticks > good.ticks
        rows = await storage.core.pool.run(names_after, storage, before.seq)
        assert rows == [(b"name 1", ""), (b"name 2", "")]
        totals = storage.core.writer.totals
        assert (totals.size_bytes, totals.entries) == (before.size_bytes, before.entries)
        assert not is_too_far(Stamp(totals.ticks, ""), clock.wall_s(), DRIFT_S)
        redating = Redating(storage.core)  # once is enough
        assert await redating.check() == 0
        clock.passed_s += STEADY_S + 1
        assert await redating.check() == 0
    report = await asyncio.to_thread(verify, tmp_path, short(), lambda *_: None, repair=False)
    assert report.catalogue_problems == []


async def test_r19_a_new_date_is_later_than_what_was_let_fall_meanwhile(tmp_path: Path) -> None:
    """Else its sender, which has been told OK, would keep the other value for good."""
    clock = WrongClock()
    async with served(tmp_path, clock) as storage:
        right_s = clock.wall_s()
        clock.off_s = 400 * DAY_S
        await push(storage, 1, value=b"here")
        theirs = Stamp(ticks_at(right_s + DRIFT_S / 3), "other")
        from_peer = Provenance(Source.PEER, via=("other",), origin="other")
        await storage.put([Entry(key_of(1), b"there", "", stamp=theirs)], provenance=from_peer)
        clock.off_s = 0
        await redated(storage, clock, 1)
        (mine,) = await stamps(storage, 1)
        assert mine > theirs


async def test_r19_a_clock_put_right_within_seconds_changes_nothing(tmp_path: Path) -> None:
    """At the start it may be behind until it is set by the network."""
    clock = WrongClock()
    async with served(tmp_path, clock) as storage:
        await push(storage, 1)
        before = await stamps(storage, 1)
        clock.off_s = -DAY_S
        redating = Redating(storage.core)
        assert await redating.check() == 0
        clock.passed_s += STEADY_S / 2
        assert await redating.check() == 0
        clock.off_s = 0
        assert await redating.check() == 0
        clock.passed_s += STEADY_S
        assert await redating.check() == 0
        assert await stamps(storage, 1) == before


async def test_r19_a_clock_without_a_battery_dates_nothing_anew(tmp_path: Path) -> None:
    clock = WrongClock()
    async with served(tmp_path, clock) as storage:
        await push(storage, 1)
        before = await stamps(storage, 1)
        clock.off_s = EARLIEST_S - 86400 - clock.wall_s()
        redating = Redating(storage.core)
        assert await redating.check() == 0
        clock.passed_s += STEADY_S + 1
        assert await redating.check() == 0
        assert await stamps(storage, 1) == before


async def test_r19_a_node_that_was_started_again_mends_it(tmp_path: Path) -> None:
    clock = WrongClock()
    async with served(tmp_path, clock) as storage:
        clock.off_s = 400 * DAY_S
        await push(storage, 1)
    clock.off_s = 0
    async with served(tmp_path, clock) as storage:
        await redated(storage, clock, 1)
        (stamp,) = await stamps(storage, 1)
        assert not is_too_far(stamp, clock.wall_s(), DRIFT_S)
