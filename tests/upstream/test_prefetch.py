"""After an entry was asked for once, its whole closure is brought here, or it is not, as told."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from federation.config.model import LimitsConfig
from federation.core import hops
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.index import Entry, EntryKey, EntryKind
from federation.observability.metrics import Metrics
from federation.upstream.prefetch import Mode, Prefetcher
from federation.upstream.pull_through import UpstreamPool
from tests.support.fakes import MemoryStore
from tests.support.process_client import action_result
from tests.support.samples import sample_value
from tests.upstream.fakes import until
from tests.upstream.finder_site import There, finder_over, there

ACTION = digest_of(b"action")
BLOBS = [os.urandom(size) for size in (*[900] * 60, *[150_000] * 30, 300_000, 700_000, 5_000_000)]
DIGESTS = [digest_of(data) for data in BLOBS]
RESULT = action_result(
    [(f"file-{at}", digest) for at, digest in enumerate(DIGESTS)]
).SerializeToString()


def full() -> There:
    up = there([], "up")
    up.index.results[ACTION] = RESULT
    up.store.blobs.update(zip(DIGESTS, BLOBS, strict=True))
    return up


async def test_all_brings_everything_so_that_it_is_served_with_the_upstream_down(
    tmp_path: Path,
) -> None:
    up = full()
    async with finder_over(tmp_path, up, prefetch="all", ttl_s=0.0) as here:
        assert await here.result(ACTION) == RESULT
        await until(lambda: here.prefetcher.idle)
        up.is_down = True
        assert await here.result(ACTION) == RESULT
        assert await here.storage.find_missing(DIGESTS) == set()
    assert len(up.store.reads) == 3
    assert len(set(up.store.reads)) == 3


@pytest.mark.parametrize("mode", ["none", "metadata"])
async def test_other_modes_bring_no_contents(tmp_path: Path, mode: Mode) -> None:
    up = full()
    async with finder_over(tmp_path, up, prefetch=mode) as here:
        assert await here.result(ACTION) == RESULT
        assert here.prefetcher.idle
        assert await here.storage.find_missing(DIGESTS) == set(DIGESTS)
    assert not up.store.reads
    assert not up.store.small_reads


async def test_what_the_upstream_lost_meanwhile_stops_nothing_else(tmp_path: Path) -> None:
    up = full()
    async with finder_over(tmp_path, up, prefetch="all") as here:
        assert await here.result(ACTION) == RESULT
        for digest in (DIGESTS[3], DIGESTS[-2]):
            del up.store.blobs[digest]
        await until(lambda: here.prefetcher.idle)
        missing = await here.storage.find_missing(DIGESTS)
    assert missing == {DIGESTS[3], DIGESTS[-2]}


async def test_prefetching_is_the_nodes_own_wish_whoever_asked(tmp_path: Path) -> None:
    up = full()
    seen: list[hops.Hops] = []
    read_small = up.store.read_small

    async def noted(digests: object) -> object:
        seen.append(hops.current())
        return await read_small(digests)  # type: ignore[arg-type]

    up.store.read_small = noted  # type: ignore[method-assign,assignment]
    async with finder_over(tmp_path, up, prefetch="all") as here:
        with hops.serving(hops.Hops(("other",), "other")):
            assert await here.result(ACTION) == RESULT
        await until(lambda: here.prefetcher.idle)
    assert seen
    assert set(seen) == {hops.NOWHERE}


async def test_p7_entries_beyond_the_bound_are_dropped_oldest_first_and_counted() -> None:
    shared = UpstreamPool("me", MemoryStore(), [], SystemClock(), presence_budget_s=60)
    metrics = Metrics()
    prefetcher = Prefetcher(shared, LimitsConfig(), "all", metrics, queued_max=2)
    for name in (b"1", b"2", b"3", b"4", b"5"):
        prefetcher.enqueue(Entry(EntryKey(EntryKind.ASSET_BLOB, "", name), b"", "urn:test"))
    assert "2 queued" in repr(prefetcher)
    value = partial(sample_value, metrics)
    assert value("federation_prefetches_dropped_total") == 3
    assert value("federation_prefetches_unfinished") == 2
    await prefetcher.close()
    await shared.close()
