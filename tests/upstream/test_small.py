"""Batches and presence through upstreams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from federation.core import hops
from federation.core.digest import Digest, digest_of
from federation.upstream.pull_through import PullThrough
from tests.upstream.fakes import Script, until, upstream
from tests.upstream.test_pull import BLOB, DATA, SIZE, kept, node, read

BLOBS = {digest_of(data): data for data in (bytes([n]) * 1000 for n in range(50))}
ASKED = list(BLOBS)


async def test_a_batch_is_filled_from_the_upstreams_in_order_and_kept(tmp_path: Path) -> None:
    first, one = upstream("a")
    second, two = upstream("b")
    one.blobs.update(list(BLOBS.items())[:20])
    two.blobs.update(list(BLOBS.items())[10:40])
    async with node(tmp_path, first, second) as (store, storage, shared):
        answers = await store.read_small(ASKED)
        assert answers == [*list(BLOBS.values())[:40], *[None] * 10]
        await kept(shared)
        assert await storage.read_small(ASKED) == answers
        assert await read(store, ASKED[5]) == BLOBS[ASKED[5]]
    assert (one.small_reads, two.small_reads) == (1, 1)


async def test_a_small_blob_asked_for_by_many_is_read_once(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs.update(BLOBS)
    async with node(tmp_path, up) as (store, _, _):
        digest = ASKED[0]
        answers = await asyncio.gather(*(read(store, digest) for _ in range(50)))
        assert set(answers) == {BLOBS[digest]}
    assert there.small_reads == 1


async def test_u14_find_missing_asks_in_parallel_within_its_budget(tmp_path: Path) -> None:
    hanging, _ = upstream("a", Script(hang_on_open=True))
    down, _ = upstream("b", Script(down=True))
    good, there = upstream("c")
    there.blobs.update(list(BLOBS.items())[:10])
    async with node(tmp_path, hanging, down, good, presence_budget_s=0.5) as (store, _, _):
        async with asyncio.timeout(60):
            assert await store.find_missing(ASKED) == set(ASKED[10:])
            assert await store.find_missing(ASKED[:10]) == set()
        assert there.finds == 1


async def test_p5_a_caller_that_may_push_is_told_of_local_blobs_only(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs.update(BLOBS)
    async with node(tmp_path, up) as (_, storage, shared):
        pushing = PullThrough(shared, includes_upstreams=False)
        assert await pushing.find_missing(ASKED) == set(ASKED)
        await storage.write_small(list(BLOBS.items())[:1])
        assert await pushing.find_missing(ASKED) == set(ASKED[1:])
    assert there.finds == 0


async def test_a_caller_that_leaves_does_not_stop_the_batch(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs.update(BLOBS)
    async with node(tmp_path, up) as (store, storage, shared):
        task = asyncio.ensure_future(store.read_small(ASKED))
        await until(lambda: there.small_reads == 1)
        task.cancel()
        await until(lambda: not shared.small._waiting)
        await kept(shared)
        assert await storage.find_missing(ASKED) == set()


async def test_a_node_of_ours_is_told_where_it_asks_for_its_readers_only(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs.update(BLOBS)
    async with node(tmp_path, up) as (_, _, shared):
        asked = PullThrough(shared, includes_upstreams=False, includes_for_nodes=True)
        uploading = PullThrough(shared, includes_upstreams=False)
        with hops.serving(hops.Hops(("other",), "other")):
            assert await asked.find_missing(ASKED) == set()
            assert await uploading.find_missing(ASKED) == set(ASKED)
        assert await asked.find_missing(ASKED) == set(ASKED)


async def test_u04_a_silent_upstream_is_overtaken_by_the_next_and_left_alone(
    tmp_path: Path,
) -> None:
    silent, unheard = upstream("a", Script(hang_on_open=True), hedge_delay_s=0.02)
    good, there = upstream("b")
    there.blobs.update(BLOBS)
    async with node(tmp_path, silent, good) as (store, _, _), asyncio.timeout(60):
        for digest in ASKED[:8]:
            assert await store.read_small([digest]) == [BLOBS[digest]]
    assert unheard.small_reads == silent.breaker.failures == 5
    assert not silent.is_up


async def test_a_slow_upstream_is_waited_for_where_the_others_lack_the_blob(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    slow, theirs = upstream("a", hedge_delay_s=0.02)
    other, _ = upstream("b")
    theirs.blobs.update(BLOBS)
    answer = theirs.read_small

    async def later(digests: Sequence[Digest]) -> list[bytes | None]:
        await gate.wait()
        return await answer(digests)

    theirs.read_small = later  # type: ignore[method-assign]
    async with node(tmp_path, slow, other) as (store, _, _), asyncio.timeout(60):
        task = asyncio.ensure_future(store.read_small(ASKED[:1]))
        await until(lambda: not other.may_have(ASKED[0]))
        gate.set()
        assert await task == [BLOBS[ASKED[0]]]
    assert slow.is_up


async def test_u17_requests_that_passed_different_nodes_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(hang_on_open=True))
    async with node(tmp_path, up) as (store, _, _):
        mine = asyncio.ensure_future(store.read_small(ASKED[:1]))
        await until(lambda: there.small_reads == 1)
        with hops.serving(hops.Hops(("other",), "other")):
            theirs = asyncio.ensure_future(store.read_small(ASKED[:1]))
        await until(lambda: there.small_reads == 2)
        for task in (mine, theirs):
            task.cancel()
        await asyncio.gather(mine, theirs, return_exceptions=True)


async def test_a_question_to_one_upstream_does_not_answer_for_the_others(tmp_path: Path) -> None:
    gate = asyncio.Event()
    first, one = upstream("a")
    second, two = upstream("b")
    two.blobs.update(BLOBS)
    answer = one.read_small

    async def later(digests: Sequence[Digest]) -> list[bytes | None]:
        await gate.wait()
        return await answer(digests)

    one.read_small = later  # type: ignore[method-assign]
    async with node(tmp_path, first, second) as (store, _, shared):
        only = PullThrough(shared, includes_upstreams=True, only=first)
        lacking = asyncio.ensure_future(only.read_small(ASKED[:1]))
        await until(lambda: bool(shared.small._waiting))
        reading = asyncio.ensure_future(store.read_small(ASKED[:1]))
        await until(lambda: len(shared.small._waiting) == 2)
        gate.set()
        assert await lacking == [None]
        assert await reading == [BLOBS[ASKED[0]]]


async def test_a_blob_that_came_after_its_reader_looked_is_not_read_again(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs.update(BLOBS)
    async with node(tmp_path, up) as (store, storage, shared):
        await storage.write_small(list(BLOBS.items())[:1])
        assert await shared.small.read(ASKED[:1]) == {ASKED[0]: BLOBS[ASKED[0]]}
        assert there.small_reads == 0
        assert await store.read_small(ASKED[:2]) == list(BLOBS.values())[:2]
    assert there.small_reads == 1


async def test_a_larger_blob_in_a_batch_shares_the_pull_of_those_who_stream_it(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    up, there = upstream("a", Script(gate=gate))
    there.blobs.update(BLOBS)
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        streamed = asyncio.ensure_future(read(store))
        await until(lambda: len(there.reads) == 1)
        batch = asyncio.ensure_future(store.read_small([ASKED[0], BLOB, digest_of(b"nowhere")]))
        await until(lambda: there.small_reads == 1)
        gate.set()
        assert await batch == [BLOBS[ASKED[0]], DATA, None]
        assert await streamed == DATA
    assert there.reads == [(BLOB, 0)]
    assert there.small_reads == 1


async def test_a_larger_blob_in_a_batch_is_answered_where_it_cannot_be_pulled(
    tmp_path: Path,
) -> None:
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up, pulls_max=0) as (store, _, _):
        assert await store.read_small([BLOB]) == [DATA]
    assert there.small_reads == 1


async def test_wrong_bytes_of_a_larger_blob_in_a_batch_are_replaced_by_the_next(
    tmp_path: Path,
) -> None:
    bad, wrong = upstream("a", Script(flip_at=SIZE // 2))
    good, right = upstream("b")
    wrong.blobs[BLOB] = right.blobs[BLOB] = DATA
    async with node(tmp_path, bad, good) as (store, _, _):
        assert await store.read_small([BLOB]) == [DATA]
    assert bad.wrong_bytes == 1
