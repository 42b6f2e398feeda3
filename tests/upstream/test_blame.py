"""Wrong bytes: who is asked again, who is blamed, and what readers are given meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.core.clock import ManualClock
from federation.core.errors import BlobDamaged, BlobNotFound
from federation.upstream.answers import Failures
from federation.upstream.candidates import MixedBlobs
from federation.upstream.presence import UpstreamPresence
from federation.upstream.upstream import Upstream
from tests.upstream.fakes import Script, ScriptedStore, upstream
from tests.upstream.test_pull import BLOB, DATA, SIZE, kept, node, read

HALF = SIZE // 2
LAST = SIZE - 10  # a reader from here on is given nothing before all is verified
STEP = 64 * 1024


def pair(first: Script, second: Script) -> tuple[Upstream, ScriptedStore, Upstream, ScriptedStore]:
    one, there = upstream("a", first)
    two, elsewhere = upstream("b", second)
    there.blobs[BLOB] = elsewhere.blobs[BLOB] = DATA
    return one, there, two, elsewhere


@pytest.mark.parametrize("sends", [Script(fails_behind=True), Script(extra=b"x")], ids=str)
@pytest.mark.parametrize("chunk", [STEP, SIZE])
async def test_what_has_come_whole_and_right_is_kept_whatever_follows(
    tmp_path: Path, sends: Script, chunk: int
) -> None:
    sends = Script(fails_behind=sends.fails_behind, extra=sends.extra, chunk_bytes=chunk)
    up, there = upstream("a", sends)
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, shared):
        assert await read(store) == DATA
        await kept(shared)
        assert await storage.find_missing([BLOB]) == set()
    assert there.reads == [(BLOB, 0)]
    assert up.breaker.failures == up.wrong_bytes == 0


async def test_wrong_bytes_with_a_failure_behind_them_are_wrong_bytes(tmp_path: Path) -> None:
    up, there = upstream("a", Script(fails_behind=True, flip_at=HALF))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, _):
        with pytest.raises(BlobNotFound):
            await read(store, offset=LAST)
        assert await storage.find_missing([BLOB]) == {BLOB}
    assert up.wrong_bytes == 2


async def test_a_lone_upstream_is_asked_once_more_at_once_after_wrong_bytes(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(flip_at=HALF, flips=1))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        assert await read(store, offset=LAST) == DATA[LAST:]
    assert there.reads == [(BLOB, 0)] * 2
    assert up.wrong_bytes == 1


async def test_a_lone_upstream_is_not_asked_a_third_time_at_once(tmp_path: Path) -> None:
    up, there = upstream("a", Script(flip_at=HALF))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        for _ in range(3):
            with pytest.raises(BlobNotFound):
                await read(store, offset=LAST)
    assert there.reads == [(BLOB, 0)] * 2
    assert up.wrong_bytes == 2


async def test_nobody_is_given_bytes_of_the_second_try_before_they_are_verified(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(flip_at=10))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        with pytest.raises(BlobDamaged):
            await read(store)
        with pytest.raises(BlobNotFound):  # a miss: it was given nothing
            await read(store)
    assert there.reads == [(BLOB, 0)] * 2


async def test_one_that_was_wrong_comes_after_all_others(tmp_path: Path) -> None:
    one, bad, two, good = pair(Script(flip_at=HALF, flips=1), Script())
    async with node(tmp_path, one, two) as (store, _, _):
        assert await read(store, offset=LAST) == DATA[LAST:]
    assert bad.reads == good.reads == [(BLOB, 0)]
    assert (one.wrong_bytes, two.wrong_bytes) == (1, 0)


async def test_one_that_lies_and_breaks_does_not_get_the_next_one_blamed(tmp_path: Path) -> None:
    one, bad, two, good = pair(Script(flip_at=10, break_at=[HALF]), Script())
    async with node(tmp_path, one, two) as (store, _, _):
        with pytest.raises(BlobDamaged):
            await read(store)  # was given bytes of both
        bad.script.break_at = [HALF] * 9
        assert await read(store) == DATA
    assert (BLOB, 0) in good.reads
    assert (one.wrong_bytes, two.wrong_bytes) == (0, 0)  # nothing is proven


async def test_who_was_given_nothing_hears_nothing_of_a_mixed_failure(tmp_path: Path) -> None:
    one, bad, two, good = pair(Script(flip_at=10, break_at=[HALF]), Script())
    async with node(tmp_path, one, two) as (store, _, _):
        assert await read(store, offset=LAST) == DATA[LAST:]
    assert bad.reads == [(BLOB, 0)]  # who ended the blob is the likelier one to be right
    assert good.reads == [(BLOB, HALF), (BLOB, 0)]
    assert two.wrong_bytes == 0


async def test_who_is_wrong_alone_is_blamed_and_nobody_was_given_its_bytes(
    tmp_path: Path,
) -> None:
    one, good, two, bad = pair(Script(break_at=[HALF]), Script(flip_at=SIZE - STEP))
    async with node(tmp_path, one, two) as (store, _, _):
        with pytest.raises(BlobDamaged):
            await read(store)
        assert await read(store) == DATA
    assert bad.reads == [(BLOB, HALF), (BLOB, 0)]
    assert good.reads == [(BLOB, 0)] * 2
    assert (one.wrong_bytes, two.wrong_bytes) == (0, 1)


async def test_what_one_began_alone_is_not_gone_on_with_by_another(tmp_path: Path) -> None:
    one, first, two, second = pair(Script(flip_at=10, break_at=[HALF]), Script())
    async with node(tmp_path, one, two) as (store, _, shared):
        with pytest.raises(BlobDamaged):
            await read(store)
        first.reads.clear()
        second.reads.clear()
        first.script = Script()
        second.script = Script(break_at=[HALF, HALF])
        assert await read(store) == DATA
        await kept(shared)
    assert second.reads == [(BLOB, 0), (BLOB, HALF)]  # it got on once, and went on by itself
    assert first.reads == [(BLOB, 0)]


async def test_a_blob_that_came_right_is_pulled_as_any_other_again(tmp_path: Path) -> None:
    one, _, two, good = pair(Script(flip_at=10, break_at=[HALF]), Script())
    async with node(tmp_path, one, two) as (store, _, shared):
        with pytest.raises(BlobDamaged):
            await read(store)
        assert BLOB in shared.pulls._mixed
        assert await read(store) == DATA
        await kept(shared)
        assert BLOB not in shared.pulls._mixed
    assert good.reads[-1] == (BLOB, 0)


async def test_readers_follow_the_last_one_that_is_left_as_its_bytes_come(tmp_path: Path) -> None:
    one, bad, two, good = pair(Script(flip_at=10, break_at=[HALF]), Script())
    async with node(tmp_path, one, two) as (store, _, _):
        with pytest.raises(BlobDamaged):
            await read(store)
        del bad.blobs[BLOB]
        one.note_absent([BLOB])
        good.script.stall_at = HALF
        async with asyncio.timeout(60), store.open_read(BLOB) as chunks:
            assert (await anext(chunks))[:1] == DATA[:1]


def test_blobs_that_came_mixed_are_bounded() -> None:
    mixed = MixedBlobs()
    for number in range(5000):
        mixed.add(BLOB._replace(size_bytes=number), "a")
    assert BLOB._replace(size_bytes=0) not in mixed
    assert BLOB._replace(size_bytes=4999) in mixed


# -- what is said to be there, and cannot be read


async def test_what_is_said_to_be_there_and_cannot_be_read_is_believed_ever_less() -> None:
    clock = ManualClock()
    up, there = upstream("a", clock=clock)
    there.blobs[BLOB] = DATA
    presence = UpstreamPresence([up], 5.0)
    waits = []
    for _ in range(12):
        assert await presence.find_missing([BLOB]) == set()
        up.note(BlobNotFound(BLOB), [BLOB])  # a read comes to another end
        began_s = clock.monotonic_s()
        while await presence.find_missing([BLOB]):
            clock.advance(1.0)
        waits.append(clock.monotonic_s() - began_s)
    assert waits[:4] == [5, 10, 20, 40]
    assert max(waits) == waits[-1] == 600
    up.note_came(BLOB)
    assert not await presence.find_missing([BLOB])
    await presence.close()


async def test_a_read_is_tried_again_while_find_missing_does_not_believe_it() -> None:
    clock = ManualClock()
    up, _ = upstream("a", clock=clock)
    for _ in range(4):
        up.note(None, [BLOB])
        up.note(BlobNotFound(BLOB), [BLOB])
    clock.advance(6.0)
    assert up.says_it_has(BLOB) is False
    assert up.may_have(BLOB)


async def test_how_reads_failed_is_forgotten_when_the_blob_is_written_here(
    tmp_path: Path,
) -> None:
    up, _ = upstream("a")
    async with node(tmp_path, up) as (store, _, _):
        for _ in range(3):
            up.note_wrong_bytes(BLOB)
        up.note(None, [BLOB])
        assert up.says_it_has(BLOB) is False
        ingest = store.begin(BLOB)
        assert up.says_it_has(BLOB) is True
        await ingest.abort()
        up.note_wrong_bytes(BLOB)
        await store.write_small([(BLOB, DATA)])
        assert up.says_it_has(BLOB) is True


async def test_a_miss_that_nobody_denied_is_remembered_for_the_usual_time_only() -> None:
    clock = ManualClock()
    up, there = upstream("a", clock=clock)
    presence = UpstreamPresence([up], 5.0)
    for _ in range(6):
        up.note(BlobNotFound(BLOB), [BLOB])
        clock.advance(6.0)
    there.blobs[BLOB] = DATA
    assert await presence.find_missing([BLOB]) == set()
    await presence.close()


async def test_how_blobs_failed_is_forgotten_when_the_upstream_comes_back() -> None:
    clock = ManualClock()
    up, _ = upstream("a", clock=clock)
    up.note_wrong_bytes(BLOB)
    up.note_wrong_bytes(BLOB)
    assert not up.may_have(BLOB)
    up.breaker.failed(clock.monotonic_s(), "down", up.jitter, needs_operator=True)
    up.note(None)
    assert up.may_have(BLOB)
    assert up.says_it_has(BLOB) is None


def test_failures_are_bounded_and_forgotten_by_themselves() -> None:
    failures = Failures(first_s=5.0, longest_s=60.0, entries_max=2)
    for key in "abc":
        failures.note(key, 0.0)
    assert [failures.times(key, 1.0) for key in "abc"] == [0, 1, 1]
    assert failures.times("c", 64.0) == 1
    assert failures.times("c", 65.0) == 0
