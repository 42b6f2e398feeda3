"""Whoever waits for an upstream is given what somebody else has committed here in the meantime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobDamaged, SourceUnavailable
from federation.storage.storage import Storage
from federation.upstream.arrivals import Arrivals
from federation.upstream.pull_buffer import WITHHELD_BYTES
from federation.upstream.pull_through import PullThrough
from tests.storage.conftest import opened, short
from tests.support.fakes import MemoryStore
from tests.upstream.fakes import Script, ScriptedStore, until, upstream
from tests.upstream.test_pull import BLOB, DATA, SIZE, node, read

SMALL_DATA = DATA[:1000]
SMALL = digest_of(SMALL_DATA)


async def push(storage: Storage, digest: Digest = BLOB, data: bytes = DATA) -> None:
    ingest = storage.begin(digest)
    await ingest.append(data)
    await ingest.commit()


@asynccontextmanager
async def waiting(
    path: Path, script: Script, started: Callable[[ScriptedStore], object]
) -> AsyncIterator[tuple[PullThrough, Storage, ScriptedStore, asyncio.Task[bytes]]]:
    """A reader that waits for an upstream which will not get on."""
    up, there = upstream("a", script)
    there.blobs.update({BLOB: DATA, SMALL: SMALL_DATA})
    async with node(path, up) as (store, storage, shared):
        reader = asyncio.ensure_future(read(store))
        await until(lambda: bool(started(there)))
        try:
            yield store, storage, there, reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await until(lambda: not shared.pulls._pulls)


async def test_a_write_ends_the_wait_for_an_upstream_that_says_nothing(tmp_path: Path) -> None:
    async with waiting(tmp_path, Script(hang_on_open=True), lambda up: up.reads) as (
        store,
        storage,
        there,
        reader,
    ):
        joined = asyncio.ensure_future(read(store, offset=SIZE - 100))
        await push(storage)
        async with asyncio.timeout(60):
            assert await reader == DATA
            assert await joined == DATA[-100:]
        assert await read(store) == DATA
    assert len(there.reads) == 1


async def test_a_commit_by_another_process_ends_it_too(tmp_path: Path) -> None:
    script = Script(hang_on_open=True)
    async with (
        waiting(tmp_path, script, lambda up: up.reads) as (_, _, _, reader),
        opened(tmp_path / "data", short(lease=60.0)) as other,
    ):
        await push(other)
        async with asyncio.timeout(60):
            assert await reader == DATA


async def test_a_reader_that_was_given_some_goes_on_from_storage(tmp_path: Path) -> None:
    up, there = upstream("a", Script(stall_at=SIZE // 2))
    there.blobs[BLOB] = DATA
    got = bytearray()
    pushed = False
    async with (
        node(tmp_path, up) as (store, storage, _),
        asyncio.timeout(60),
        store.open_read(BLOB) as chunks,
    ):
        async for chunk in chunks:
            got += chunk
            if len(got) >= SIZE // 2 and not pushed:
                pushed = True
                await push(storage)
    assert got == DATA


async def test_p1_a_reader_that_was_given_other_bytes_is_told_and_not_given_the_rest(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(stall_at=SIZE // 2, flip_at=10))
    there.blobs[BLOB] = DATA
    got = bytearray()
    async with node(tmp_path, up) as (store, storage, _), asyncio.timeout(60):
        with pytest.raises(BlobDamaged):  # noqa: PT012 - it raises between chunks
            async with store.open_read(BLOB) as chunks:
                async for chunk in chunks:
                    got += chunk
                    if len(got) >= SIZE // 2:
                        await push(storage)
        assert len(got) < SIZE - WITHHELD_BYTES
        assert await read(store) == DATA


async def test_p1_bytes_of_an_upstream_that_nobody_was_given_do_not_matter(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(stall_at=SIZE // 2, flip_at=10))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, storage, shared), asyncio.timeout(60):
        reader = asyncio.ensure_future(read(store, offset=SIZE - WITHHELD_BYTES))
        await until(lambda: any(p.buffer.received_bytes for p in shared.pulls._pulls.values()))
        await push(storage)
        assert await reader == DATA[-WITHHELD_BYTES:]


async def test_a_small_blob_that_is_written_ends_the_wait_of_all_who_want_it(
    tmp_path: Path,
) -> None:
    up, _ = upstream("a", Script(hang_on_open=True))
    other = digest_of(b"nowhere")
    async with node(tmp_path, up) as (store, storage, shared), asyncio.timeout(60):
        first = asyncio.ensure_future(read(store, SMALL))
        await until(lambda: len(shared.small._waiting) == 1)
        second = asyncio.ensure_future(store.read_small([SMALL]))
        third = asyncio.ensure_future(store.read_small([SMALL, other]))
        await until(lambda: shared.small.joined == 2)
        await storage.write_small([(SMALL, SMALL_DATA)])
        assert await first == SMALL_DATA
        assert await second == [SMALL_DATA]
        assert not third.done()  # the other one may still come
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)


async def test_the_trouble_of_this_node_is_a_miss_to_nobody_who_waits(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs[SMALL] = SMALL_DATA
    async with node(tmp_path, up) as (_, storage, shared):
        looks = asyncio.Event()

        async def broken(_digests: object) -> list[bytes | None]:
            await looks.wait()
            raise SourceUnavailable("storage", "the disk is broken")

        storage.read_small = broken  # type: ignore[method-assign,assignment]
        readers = [asyncio.ensure_future(shared.small.read([SMALL])) for _ in range(3)]
        await until(lambda: shared.small.joined == 2)
        looks.set()
        for outcome in await asyncio.gather(*readers, return_exceptions=True):
            assert isinstance(outcome, SourceUnavailable), outcome
    assert there.small_reads == 0


async def test_storage_is_asked_once_and_then_only_after_a_commit() -> None:
    local = MemoryStore()
    asked: list[set[Digest]] = []
    find_missing = local.find_missing

    async def counted(digests: set[Digest]) -> set[Digest]:
        asked.append(set(digests))
        return await find_missing(digests)

    local.find_missing = counted  # type: ignore[method-assign,assignment]
    arrivals = Arrivals(local, SystemClock())
    came = asyncio.Event()

    async def on_arrival(digests: set[Digest]) -> None:
        assert digests == {SMALL}
        came.set()

    with arrivals.watching([SMALL, BLOB], on_arrival):
        await until(lambda: len(asked) == 1)
        await asyncio.sleep(0.5)
        assert len(asked) == 1
        local.blobs[SMALL] = SMALL_DATA
        async with asyncio.timeout(60):
            await came.wait()
    await until(lambda: arrivals._watching is not None and arrivals._watching.done())
    await arrivals.close()
