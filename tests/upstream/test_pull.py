"""Pulling one blob: single-flight, cut-through, failover, and never wrong bytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.core import hops
from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobDamaged, BlobNotFound, SourceUnavailable, TooBusy
from federation.core.memory_budget import MemoryBudget
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.storage.ingest import GrowingFile, LocalIngest
from federation.storage.storage import Storage
from federation.upstream.pull_buffer import WITHHELD_BYTES
from federation.upstream.pull_through import PullThrough, UpstreamPool
from federation.upstream.upstream import Upstream
from tests.storage.conftest import opened, short
from tests.storage.trouble import received_files
from tests.upstream.fakes import Script, until, upstream

SIZE = 3_000_000
DATA = os.urandom(SIZE)
BLOB = digest_of(DATA)


@asynccontextmanager
async def node(
    path: Path, *upstreams: Upstream, presence_budget_s: float = 60, **options: Any
) -> AsyncIterator[tuple[PullThrough, Storage, UpstreamPool]]:
    async with opened(path / "data", short(lease=600.0)) as storage:
        shared = UpstreamPool(
            "me",
            storage,
            upstreams,
            SystemClock(),
            presence_budget_s=presence_budget_s,
            **options,
        )
        try:
            yield PullThrough(shared, includes_upstreams=True), storage, shared
        finally:
            await shared.close()


async def read(store: PullThrough, digest: Digest = BLOB, **options: int) -> bytes:
    async with store.open_read(digest, **options) as chunks:  # type: ignore[arg-type]
        return b"".join([chunk async for chunk in chunks])


async def kept(shared: UpstreamPool) -> None:
    """Wait until what was answered is durable."""
    await until(lambda: not shared.pulls._pulls)
    await shared.small.wait_kept()


async def test_who_comes_while_a_failed_pull_ends_begins_another(tmp_path: Path) -> None:
    up, there = upstream("a", Script(break_at=[SIZE // 2] * 20))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, shared):
        failed = shared.pulls._join((BLOB, None))
        await until(lambda: failed.buffer.error is not None)
        await failed.leave()
        await until(lambda: not shared.pulls._pulls)
        there.script.break_at.clear()
        shared.pulls._pulls[BLOB, None] = failed  # as while it removes what it received
        assert await read(store) == DATA


async def test_a_miss_is_pulled_once_for_many_readers_and_kept(tmp_path: Path) -> None:
    gate = asyncio.Event()
    up, there = upstream("a", Script(gate=gate))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, shared):
        offsets = [0, 1, SIZE // 2, SIZE - 1] * 25
        readers = [asyncio.ensure_future(read(store, offset=offset)) for offset in offsets]
        await until(lambda: shared.pulls.joined == 99)
        gate.set()
        assert await asyncio.gather(*readers) == [DATA[offset:] for offset in offsets]
        assert there.reads == [(BLOB, 0)]
        await until(lambda: not shared.pulls._pulls)
        assert await storage.find_missing([BLOB]) == set()
    there.script.down = True
    async with node(tmp_path, up) as (store, _, _):
        assert await read(store) == DATA


async def test_an_upload_is_not_skipped_because_an_upstream_has_the_blob(tmp_path: Path) -> None:
    """The upstream may go away; what was pushed here is kept here, and replicated."""
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, _):
        assert await store.find_missing([BLOB]) == set()  # which asks it
        assert not await store.accept_held(BLOB)
        await storage.write_small([(BLOB, DATA)])
        assert await store.accept_held(BLOB)


async def test_bytes_flow_while_they_arrive_and_the_last_are_withheld(tmp_path: Path) -> None:
    up, there = upstream("a", Script(chunk_bytes=60_000, stall_at=SIZE - 60_000))
    there.blobs[BLOB] = DATA
    got = b""
    async with (
        node(tmp_path, up) as (store, storage, _),
        store.open_read(BLOB) as chunks,
    ):
        async with asyncio.timeout(60):
            while len(got) < SIZE - WITHHELD_BYTES:
                got += await anext(chunks)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(chunks)
        assert got == DATA[: SIZE - WITHHELD_BYTES]
        assert await storage.find_missing([BLOB]) == {BLOB}


async def test_what_has_come_whole_is_given_before_the_upstream_says_that_it_is(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(stall_at=SIZE))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _), asyncio.timeout(60):
        assert await read(store) == DATA


@pytest.mark.parametrize("breaks", [[0], [SIZE // 2], [SIZE - 1], [100_000, SIZE // 2, SIZE - 1]])
async def test_u02_a_break_is_continued_at_the_same_offset_by_the_next(
    tmp_path: Path, breaks: list[int]
) -> None:
    first, bad = upstream("a", Script(break_at=list(breaks)))
    second, good = upstream("b")
    bad.blobs[BLOB] = good.blobs[BLOB] = DATA
    async with node(tmp_path, first, second) as (store, _, _):
        assert await read(store) == DATA
    assert good.reads == [(BLOB, breaks[0])]
    assert first.breaker.failures == 1


async def test_u22_a_lone_upstream_that_breaks_but_gets_on_is_resumed(tmp_path: Path) -> None:
    up, there = upstream("a", Script(break_at=[500_000, 1_000_000, 2_000_000]))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        assert await read(store) == DATA
    assert [offset for _, offset in there.reads] == [0, 500_000, 1_000_000, 2_000_000]


async def test_a_lone_upstream_that_does_not_get_on_is_an_error_not_short_bytes(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(break_at=[500_000, 500_000, 500_000]))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, _):
        with pytest.raises((SourceUnavailable, BlobNotFound)):
            await read(store)
        assert await storage.find_missing([BLOB]) == {BLOB}


@pytest.mark.parametrize("limit", [1000, SIZE // 2, SIZE - 1])
async def test_u01_a_read_of_a_part_with_wrong_bytes_does_not_end_well(
    tmp_path: Path, limit: int
) -> None:
    up, there = upstream("a", Script(flip_at=100))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        with pytest.raises((BlobDamaged, BlobNotFound)):
            await read(store, limit=limit)


async def test_u01_of_a_part_all_but_its_end_comes_before_the_blob_is_verified(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(stall_at=2 * SIZE // 3))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _), asyncio.timeout(60):
        async with store.open_read(BLOB, offset=1000, limit=SIZE // 3) as chunks:
            got = 0
            async for chunk in chunks:
                got += len(chunk)
                if got == SIZE // 3 - WITHHELD_BYTES:
                    break
        assert got == SIZE // 3 - WITHHELD_BYTES


async def test_u02_what_came_of_a_pull_that_failed_is_removed_when_its_readers_leave_at_once(
    tmp_path: Path,
) -> None:
    # Readers that are told of the failure go while the pull still tidies up: that must not stop it.
    up, there = upstream("a", Script(break_at=[SIZE // 10] * 3))
    there.blobs[BLOB] = DATA
    budget = MemoryBudget(2**30)
    async with node(tmp_path, up, memory=budget) as (store, storage, shared):
        incoming = storage.core.directory.incoming
        for _ in range(5):
            there.script.break_at = [SIZE // 10] * 3
            with pytest.raises((SourceUnavailable, BlobNotFound)):
                await read(store)
            await until(lambda: not shared.pulls._pulls)
            await until(lambda: not list(incoming.iterdir()))
            assert storage.core.space.reserved_bytes == 0
            assert budget.used_bytes == 0


async def test_a_reader_that_leaves_as_the_blob_comes_another_way_leaves_nothing_open(
    tmp_path: Path,
) -> None:
    """A pull that is being ended is not ended a second time, in the middle of its clean-up."""
    up, there = upstream("a", Script(gate=asyncio.Event(), gate_from=SIZE // 4))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, shared):
        reading = asyncio.ensure_future(read(store))
        await until(lambda: bool(shared.pulls._pulls))
        (pull,) = shared.pulls._pulls.values()
        await until(lambda: pull.buffer.is_readable)  # the file is open for readers
        release, go_on = pull.buffer.release_memory, asyncio.Event()

        async def release_later() -> None:
            await go_on.wait()
            await release()

        pull.buffer.release_memory = release_later  # type: ignore[method-assign]
        pull.buffer.was_read = False  # what it was given need not be compared
        await pull.came_here()
        reading.cancel()
        await asyncio.wait([reading])
        go_on.set()
        await until(lambda: not received_files(storage))


async def test_u01_wrong_bytes_are_dropped_and_the_next_one_is_read_from_zero(
    tmp_path: Path,
) -> None:
    small = DATA[: WITHHELD_BYTES + 300_000]
    digest = digest_of(small)
    first, bad = upstream("a", Script(flip_at=len(small) - 1, chunk_bytes=len(small)))
    second, good = upstream("b")
    bad.blobs[digest] = good.blobs[digest] = small
    async with node(tmp_path, first, second) as (store, _, _):
        # The reader begins in the withheld part: it has been given nothing when the bytes turn
        # out wrong.
        assert await read(store, digest, offset=len(small) - 10) == small[-10:]
        assert await read(store, digest) == small
    assert first.wrong_bytes == 1
    assert good.reads == [(digest, 0)]


async def test_u01_wrong_bytes_after_some_were_handed_out_end_in_data_loss(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    up, there = upstream("a", Script(flip_at=10, gate=gate))
    there.blobs[BLOB] = DATA
    got = b""
    async with node(tmp_path, up) as (store, storage, _):
        gate.set()
        async with store.open_read(BLOB) as chunks:
            with pytest.raises(BlobDamaged):  # noqa: PT012 - it raises between chunks
                async for chunk in chunks:
                    got += chunk
        assert 0 < len(got) < SIZE
        assert await storage.find_missing([BLOB]) == {BLOB}
        assert up.wrong_bytes == 1


async def test_u03_more_bytes_than_the_blob_has_are_not_taken(tmp_path: Path) -> None:
    first, bad = upstream("a", Script(extra=b"x"))
    second, good = upstream("b")
    bad.blobs[BLOB] = good.blobs[BLOB] = DATA
    async with node(tmp_path, first, second) as (store, _, _):
        assert await read(store) == DATA


async def test_u04_a_silent_upstream_is_raced_by_the_next(tmp_path: Path) -> None:
    first, silent = upstream("a", Script(hang_on_open=True), hedge_delay_s=0.05)
    second, good = upstream("b")
    good.blobs[BLOB] = DATA
    async with node(tmp_path, first, second) as (store, _, _):
        async with asyncio.timeout(60):
            assert await read(store) == DATA
    assert len(silent.reads) == len(good.reads) == 1


async def test_order_is_priority_and_a_miss_moves_on(tmp_path: Path) -> None:
    pairs = [upstream(name) for name in "abc"]
    pairs[1][1].blobs[BLOB] = pairs[2][1].blobs[BLOB] = DATA
    async with node(tmp_path, *(up for up, _ in pairs)) as (store, _, _):
        assert await read(store) == DATA
    assert [len(there.reads) for _, there in pairs] == [1, 1, 0]


async def test_a_miss_everywhere_is_remembered_until_the_blob_is_pushed(tmp_path: Path) -> None:
    up, there = upstream("a")
    async with node(tmp_path, up) as (store, storage, _):
        for _ in range(3):
            with pytest.raises(BlobNotFound):
                await read(store)
        assert len(there.reads) == 1
        ingest = storage.begin(BLOB)
        await ingest.append(DATA)
        await ingest.commit()
        assert await read(store) == DATA


async def test_u06_a_down_upstream_is_a_miss_and_soon_not_asked(tmp_path: Path) -> None:
    up, there = upstream("a", Script(down=True))
    async with node(tmp_path, up) as (store, _, _):
        for _ in range(10):
            with pytest.raises(BlobNotFound):
                await read(store)
    assert len(there.reads) == 5
    assert not up.is_up


async def test_u11_readers_that_all_leave_before_half_stop_the_pull(tmp_path: Path) -> None:
    up, there = upstream("a", Script(stall_at=SIZE // 10))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, shared):
        readers = [asyncio.ensure_future(read(store)) for _ in range(3)]
        await until(lambda: shared.pulls.joined == 2)
        readers[0].cancel()
        await asyncio.sleep(0.05)
        assert shared.pulls._pulls
        for reader in readers[1:]:
            reader.cancel()
        await until(lambda: not shared.pulls._pulls)
        incoming = storage.core.directory.incoming
        await until(lambda: not list(incoming.iterdir()))
        assert storage.core.space.reserved_bytes == 0


async def test_u11_readers_that_leave_after_half_do_not_stop_it(tmp_path: Path) -> None:
    gate = asyncio.Event()
    up, there = upstream("a", Script(gate=gate, chunk_bytes=SIZE * 6 // 10))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, shared):
        gate.set()
        async with store.open_read(BLOB, limit=1000) as chunks:
            gate.clear()
            async for _ in chunks:
                break
        assert shared.pulls._pulls
        gate.set()
        await until(lambda: not shared.pulls._pulls)
        assert await storage.find_missing([BLOB]) == set()


async def test_u13_a_failed_pull_is_not_remembered(tmp_path: Path) -> None:
    up, there = upstream("a", Script(down=True))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        # Fewer than open the breaker: they need not share a pull.
        results = await asyncio.gather(*(read(store) for _ in range(4)), return_exceptions=True)
        assert all(isinstance(result, BlobNotFound) for result in results)
        there.script.down = False
        assert await read(store) == DATA


@pytest.mark.parametrize(
    "passed", [hops.Hops(("other", "me"), "other"), hops.Hops(("other",), "other", replicates=True)]
)
async def test_u17_a_request_that_was_here_before_or_replicates_is_answered_from_local(
    tmp_path: Path, passed: hops.Hops
) -> None:
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _):
        with hops.serving(passed):
            with pytest.raises(BlobNotFound):
                await read(store)
            assert await store.find_missing([BLOB]) == {BLOB}
            assert await store.read_small([BLOB]) == [None]
    assert not there.reads


async def test_offline_asks_nobody(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, shared):
        shared.offline = True
        with pytest.raises(BlobNotFound):
            await read(store)
        shared.offline = False
        assert await read(store) == DATA


async def test_u27_pulls_at_once_are_bounded(tmp_path: Path) -> None:
    up, there = upstream("a", Script(hang_on_open=True))
    async with node(tmp_path, up, pulls_max=4) as (store, storage, _):
        wanted: Sequence[Digest] = [BLOB._replace(hash=os.urandom(32)) for _ in range(10)]
        readers = [asyncio.ensure_future(read(store, digest)) for digest in wanted]
        await until(lambda: len(there.reads) == 4)
        await until(lambda: sum(reader.done() for reader in readers) == 6)
        done = [reader for reader in readers if reader.done()]
        pending = [reader for reader in readers if not reader.done()]
        assert all(isinstance(task.exception(), TooBusy) for task in done)
        held = await storage.write_small([(digest_of(b"x"), b"x")])
        assert held == [None]
        assert await read(store, digest_of(b"x")) == b"x"
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def test_u17_a_node_that_asks_does_not_wait_for_a_pull_that_may_wait_for_it(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(hang_on_open=True))
    async with node(tmp_path, up) as (store, _, shared):
        mine = asyncio.ensure_future(read(store))
        await until(lambda: len(there.reads) == 1)
        there.script.hang_on_open = False
        with hops.serving(hops.Hops(("other",), "other")), pytest.raises(BlobNotFound):
            await read(store)
        assert len(there.reads) == 2
        assert len(shared.pulls._pulls) == 1
        mine.cancel()
        await asyncio.gather(mine, return_exceptions=True)


async def test_trouble_of_this_node_s_own_disk_is_no_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise SourceUnavailable("receiving a blob", "the disk is broken")

    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (_, _, shared):
        monkeypatch.setattr(LocalIngest, "_write", broken)
        with pytest.raises(SourceUnavailable, match="the disk is broken"):
            await shared.pulls.fetch(BLOB)


async def test_a_node_that_asks_joins_a_pull_that_gets_on(tmp_path: Path) -> None:
    gate = asyncio.Event()
    up, there = upstream("a", Script(gate=gate, gate_from=1))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, shared):
        mine = asyncio.ensure_future(read(store))
        await until(
            lambda: any(pull.buffer.received_bytes for pull in shared.pulls._pulls.values())
        )
        with hops.serving(hops.Hops(("other",), "other")):
            theirs = asyncio.ensure_future(read(store))
        await until(lambda: shared.pulls.joined == 1)
        gate.set()
        assert await mine == await theirs == DATA
    assert there.reads == [(BLOB, 0)]


async def test_a_client_is_not_given_the_miss_of_a_request_that_passed_other_nodes(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(hang_on_open=True))
    async with node(tmp_path, up) as (store, _, shared):
        with hops.serving(hops.Hops(("other",), "other")):
            theirs = asyncio.ensure_future(read(store))
        await until(lambda: len(there.reads) == 1)
        mine = asyncio.ensure_future(read(store))
        await until(lambda: shared.pulls.joined == 1)
        there.script = Script()
        there.blobs[BLOB] = DATA
        (pull,) = shared.pulls._pulls.values()
        pull.buffer.fail(BlobNotFound(BLOB))
        assert await mine == DATA
        theirs.cancel()
        await asyncio.gather(theirs, return_exceptions=True)


async def test_a_blob_that_came_in_the_meantime_is_not_pulled_again(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, shared):
        assert await read(store) == DATA
        async with shared.pulls.open_read(BLOB, 0, None, None) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == DATA
    assert len(there.reads) == 1


async def test_u10_a_reader_that_comes_right_behind_the_first_bytes_waits_for_them(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    up, there = upstream("a", Script(gate=gate))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, _):
        begin = storage.begin

        def begin_slowly(digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> LocalIngest:
            ingest = begin(digest, provenance=provenance)
            opening = ingest.open_growing

            async def later() -> GrowingFile:
                await asyncio.sleep(0.05)
                return await opening()

            ingest.open_growing = later  # type: ignore[method-assign]
            return ingest

        storage.begin = begin_slowly  # type: ignore[method-assign]
        gate.set()
        first = asyncio.ensure_future(read(store))
        await asyncio.sleep(0)
        others = []
        while not first.done():
            others.append(asyncio.ensure_future(read(store, offset=SIZE - 1000)))
            others.append(asyncio.ensure_future(read(store, limit=1000)))
            await asyncio.sleep(0.005)
        assert await first == DATA
        got = await asyncio.gather(*others)
        assert set(got) == {DATA[:1000], DATA[-1000:]}


async def test_small_pieces_of_an_upstream_are_not_sent_on_one_by_one(tmp_path: Path) -> None:
    gate = asyncio.Event()
    up, there = upstream("a", Script(chunk_bytes=1024, gate=gate))
    there.blobs[BLOB] = DATA
    async with (
        node(tmp_path, up) as (store, _, _),
        asyncio.timeout(60),
    ):

        async def follow() -> list[bytes]:
            async with store.open_read(BLOB) as chunks:
                return [chunk async for chunk in chunks]

        readers = [asyncio.ensure_future(follow()) for _ in range(20)]
        await until(lambda: len(there.reads) == 1)
        gate.set()
        for chunks in await asyncio.gather(*readers):
            assert b"".join(chunks) == DATA
            # Each is an eighth of what has come by then, or what came in a moment.
            assert len(chunks) < SIZE // 1024 // 5


async def test_what_has_come_is_shown_although_nothing_follows(tmp_path: Path) -> None:
    up, there = upstream("a", Script(chunk_bytes=1024, stall_at=1024 * 1024))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _), store.open_read(BLOB) as chunks:
        got = b""
        async with asyncio.timeout(60):
            while len(got) < 1024 * 1024:
                got += await anext(chunks)
    assert got == DATA[: len(got)]
