"""What was named in advance is brought with all that it names, once, at a pace, and counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock, SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.index import FetchedAsset
from federation.core.pace import Pace
from federation.core.wanted import Wanted, parse_wanted
from federation.core.window import Window
from federation.upstream.bringing import BringingStore
from federation.upstream.warmer import Warmer, WarmReport, WarmScope
from tests.support.process_client import action_result
from tests.upstream.fakes import until
from tests.upstream.finder_site import Here, There, finder_over, there

SMALL, LARGE = os.urandom(20_000), os.urandom(3_000_000)
ACTION = digest_of(b"action")
URI = "urn:test:a"


class Run(NamedTuple):
    here: Here
    warmer: Warmer

    async def bring(self, *names: str | Wanted, scope: WarmScope = WarmScope()) -> WarmReport:  # noqa: B008 - it is a constant
        report = WarmReport()
        wanted = [parse_wanted(name) if isinstance(name, str) else name for name in names]
        await self.warmer.run(wanted, scope, report)
        return report

    async def missing(self, *digests: Digest) -> set[Digest]:
        return await self.here.storage.find_missing(digests)


@asynccontextmanager
async def run_over(
    path: Path, *upstreams: There, pace: Pace | None = None, ttl_s: float = 0.0
) -> AsyncIterator[Run]:
    async with finder_over(path, *upstreams, ttl_s=ttl_s) as here:
        store = BringingStore(here.shared, pace)
        yield Run(here, Warmer(here.finder, store, LimitsConfig(), SystemClock()))


def with_result(up: There, *blobs: bytes) -> list[Digest]:
    digests = [digest_of(data) for data in blobs]
    files = [(f"file-{at}", digest) for at, digest in enumerate(digests)]
    up.index.results[ACTION] = action_result(files).SerializeToString()
    up.store.blobs.update(zip(digests, blobs, strict=True))
    return digests


async def test_an_action_result_comes_with_all_that_it_names(tmp_path: Path) -> None:
    up = there([], "up")
    digests = with_result(up, SMALL, LARGE)
    async with run_over(tmp_path, up) as run:
        report = await run.bring(f"action {ACTION}")
        assert (report.names, report.whole, report.problems) == (1, 1, [])
        assert report.brought == (2, len(SMALL) + len(LARGE))
        up.is_down = True
        assert await run.here.result(ACTION) is not None
        assert await run.missing(*digests) == set()


async def test_assets_are_asked_for_as_blobs_and_as_directories(tmp_path: Path) -> None:
    up = there([], "up")
    digest = up.names(URI, LARGE)
    async with run_over(tmp_path, up) as run:
        report = await run.bring(URI, "urn:test:other")
        assert (report.whole, report.not_found) == (1, 1)
        assert report.problems == [
            ("urn:test:other", "neither this node nor an upstream has it whole")
        ]
        assert await run.missing(digest) == set()


async def test_blobs_come_in_batches_and_each_name_counts_once(tmp_path: Path) -> None:
    up = there([], "up")
    blobs = [os.urandom(1000) for _ in range(700)] + [LARGE]
    up.store.blobs.update({digest_of(data): data for data in blobs})
    absent = digest_of(b"absent")
    async with run_over(tmp_path, up) as run:
        digests = [digest_of(data) for data in blobs]
        report = await run.bring(*map(str, [*digests, absent, digests[0]]))
        assert (report.names, report.whole, report.not_found) == (702, 701, 1)
        assert report.problems == [(str(absent), "no upstream sent it")]
        assert await run.missing(*digests) == set()
        assert up.store.small_reads <= 4


async def test_a_second_run_pulls_nothing_and_asks_for_names_only_unless_it_resumes(
    tmp_path: Path,
) -> None:
    order: list[str] = []
    up = there(order, "up")
    with_result(up, SMALL, LARGE)
    up.names(URI, SMALL)
    names = (f"action {ACTION}", URI)
    async with run_over(tmp_path, up) as run:
        assert (await run.bring(*names)).whole == 2
        reads, asked = len(up.store.reads) + up.store.small_reads, len(order)
        report = await run.bring(*names)
        assert (report.whole, report.brought) == (2, (0, 0))
        assert len(up.store.reads) + up.store.small_reads == reads
        assert len(order) > asked
    async with run_over(tmp_path, up, ttl_s=float("inf")) as run:
        order.clear()
        assert (await run.bring(f"action {ACTION}")).whole == 1
        assert order == []


async def test_a_name_that_means_something_else_by_now_is_brought_anew(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, SMALL)
    async with run_over(tmp_path, up) as run:
        await run.bring(URI)
        newer = os.urandom(5000)
        up.index.assets[URI] = FetchedAsset(URI, digest_of(newer))
        up.store.blobs[digest_of(newer)] = newer
        assert (await run.bring(URI)).whole == 1
        assert await run.missing(digest_of(newer)) == set()


async def _claims_all(_digests: object) -> set[Digest]:
    return set()


async def test_what_breaks_off_is_incomplete_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    up = there([], "up", clock=clock)
    small, large = with_result(up, SMALL, LARGE)
    async with run_over(tmp_path, up) as run:
        read = up.store.blobs.pop(large)
        monkeypatch.setattr(up.store, "find_missing", _claims_all)
        report = await run.bring(f"action {ACTION}")
        assert (report.incomplete, report.whole) == (1, 0)
        assert await run.missing(small, large) == {large}
        up.store.blobs[large] = read
        clock.advance(3600)  # it is remembered for a while that the upstream did not send it
        report = await run.bring(f"action {ACTION}")
        assert (report.whole, report.brought) == (1, (1, len(LARGE)))


async def test_one_name_that_fails_stops_no_other(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, SMALL)
    async with run_over(tmp_path, up) as run:
        bad = Wanted(uri="x" * 10_000)  # no request can name it
        report = await run.bring(bad, URI)
        assert (report.whole, report.incomplete) == (1, 1)
        assert "URI" in report.problems[0][1]


@dataclass
class WatchedClock(ManualClock):
    """Notes how much time was slept."""

    def __init__(self) -> None:
        super().__init__(wall_s=datetime(2030, 1, 1, 12, 0).timestamp())
        self.slept_s = 0.0

    async def sleep(self, seconds: float) -> None:
        """See Clock."""
        self.slept_s += seconds
        await super().sleep(seconds)


async def test_the_rate_is_kept_over_small_and_large_blobs(tmp_path: Path) -> None:
    up = there([], "up")
    with_result(up, SMALL, LARGE)
    clock = WatchedClock()
    async with run_over(tmp_path, up, pace=Pace(clock, bytes_s=100_000)) as run:
        assert (await run.bring(f"action {ACTION}")).whole == 1
        pace_s = (len(SMALL) + len(LARGE)) / 100_000
        assert pace_s - 1 <= clock.slept_s + 0.25 + len(SMALL) / 100_000
        assert clock.slept_s <= pace_s + 1


async def test_a_client_that_wants_the_blob_is_not_held_up_by_the_pace(tmp_path: Path) -> None:
    up = there([], "up")
    digest = up.names(URI, LARGE)
    clock = SystemClock()
    pace = Pace(clock, bytes_s=1)  # it would take a month
    async with run_over(tmp_path, up, pace=pace) as run:
        bringing = asyncio.ensure_future(run.bring(str(digest)))
        await until(lambda: bool(up.store.reads))
        async with (
            asyncio.timeout(60),
            run.here.shared.pulls.open_read(digest, 0, None, None) as chunks,
        ):
            data = b"".join([chunk async for chunk in chunks])
        assert data == LARGE
        bringing.cancel()
        await asyncio.wait([bringing])


async def test_nothing_is_asked_for_before_the_window_opens(tmp_path: Path) -> None:
    order: list[str] = []
    up = there(order, "up")
    digest = up.names(URI, SMALL)
    clock = WatchedClock()
    pace = Pace(clock, window=Window.parse("20:00-06:00"))
    opened_s: list[float] = []
    find_missing = up.store.read_small

    async def noted(digests: object) -> object:
        opened_s.append(pace.opens_in_s)
        return await find_missing(digests)  # type: ignore[arg-type]

    up.store.read_small = noted  # type: ignore[method-assign,assignment]
    async with run_over(tmp_path, up, pace=pace) as run:
        assert (await run.bring(str(digest), URI)).whole == 2
    assert set(opened_s) == {0.0}
    assert clock.slept_s == pytest.approx(8 * 3600, abs=1)
