"""Whoever reads is answered when bytes are verified; that they are kept follows behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import FederationError, SourceUnavailable, StorageFull
from federation.core.memory_budget import MemoryBudget
from federation.core.provenance import Provenance
from federation.core.store import Piece, Readable
from federation.storage.ingest import LocalIngest
from federation.storage.storage import Storage
from tests.upstream.fakes import Script, until, upstream
from tests.upstream.test_pull import BLOB, DATA, kept, node, read

SMALL = digest_of(b"small")


def change_ingests(storage: Storage, change: Callable[[LocalIngest], None]) -> None:
    begin = storage.begin

    def changed(digest: Digest, *, provenance: Provenance) -> LocalIngest:
        ingest = begin(digest, provenance=provenance)
        change(ingest)
        return ingest

    storage.begin = changed  # type: ignore[method-assign, assignment]


def hold_commits(storage: Storage, gate: asyncio.Event) -> None:
    def change(ingest: LocalIngest) -> None:
        commit = ingest.commit

        async def later() -> bool:
            await gate.wait()
            return await commit()

        ingest.commit = later  # type: ignore[method-assign]

    change_ingests(storage, change)


def hold_batches(storage: Storage, gate: asyncio.Event) -> None:
    write = storage.write_small

    async def later(
        blobs: Sequence[tuple[Digest, bytes]], *, provenance: Provenance
    ) -> list[FederationError | None]:
        await gate.wait()
        return await write(blobs, provenance=provenance)

    storage.write_small = later  # type: ignore[method-assign, assignment]


async def test_readers_do_not_wait_until_a_blob_is_durable_and_later_ones_join(
    tmp_path: Path,
) -> None:
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    gate = asyncio.Event()
    async with node(tmp_path, up) as (store, storage, shared), asyncio.timeout(60):
        hold_commits(storage, gate)
        assert await read(store) == DATA
        assert await read(store, offset=1000, limit=2000) == DATA[1000:3000]
        assert await storage.find_missing([BLOB]) == {BLOB}
        bringing = asyncio.ensure_future(shared.pulls.fetch(BLOB))
        await until(lambda: shared.pulls.joined == 2)
        await asyncio.sleep(0)
        assert not bringing.done()  # who wants it here waits until it is
        gate.set()
        await bringing
        assert await storage.find_missing([BLOB]) == set()
    assert there.reads == [(BLOB, 0)]


async def test_u25_a_verified_blob_that_cannot_be_kept_is_read_to_its_end(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    gate = asyncio.Event()

    def change(ingest: LocalIngest) -> None:
        async def refuse() -> bool:
            await gate.wait()
            raise StorageFull("no room")

        ingest.commit = refuse  # type: ignore[method-assign]

    async with node(tmp_path, up) as (store, storage, shared), asyncio.timeout(60):
        change_ingests(storage, change)
        async with store.open_read(BLOB) as chunks:
            got = await anext(chunks)
            bringing = asyncio.ensure_future(shared.pulls.fetch(BLOB))
            await asyncio.sleep(0)
            gate.set()
            with pytest.raises(StorageFull):
                await bringing
            await until(lambda: not shared.pulls._pulls)
            async for chunk in chunks:
                got += chunk
        assert got == DATA
        assert await storage.find_missing([BLOB]) == {BLOB}
        assert storage.core.space.reserved_bytes == 0
    assert up.breaker.failures == 0


async def test_trouble_of_this_nodes_disk_is_no_failure_of_an_upstream_and_no_miss(
    tmp_path: Path,
) -> None:
    first, one = upstream("a")
    second, two = upstream("b")
    one.blobs[BLOB] = two.blobs[BLOB] = DATA

    def change(ingest: LocalIngest) -> None:
        append = ingest.append

        async def fail(data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
            if ingest.received_bytes > 0:
                raise SourceUnavailable("disk", "receiving a blob: EIO")
            await append(data, on_hashed)

        ingest.append = fail  # type: ignore[method-assign]

    async with node(tmp_path, first, second) as (store, storage, _), asyncio.timeout(60):
        change_ingests(storage, change)
        with pytest.raises(SourceUnavailable, match="EIO"):
            await read(store)
        assert storage.core.space.reserved_bytes == 0
    assert first.breaker.failures == first.wrong_bytes == 0
    assert not two.reads


async def test_small_blobs_are_answered_before_they_are_durable_and_asked_for_once(
    tmp_path: Path,
) -> None:
    up, there = upstream("a")
    there.blobs[SMALL] = b"small"
    gate = asyncio.Event()
    budget = MemoryBudget(1000)
    async with node(tmp_path, up, memory=budget) as (store, storage, shared):
        hold_batches(storage, gate)
        async with asyncio.timeout(60):
            assert await read(store, SMALL) == b"small"
            assert await storage.find_missing([SMALL]) == {SMALL}
            assert await store.read_small([SMALL]) == [b"small"]
            assert budget.used_bytes == 5
            gate.set()
            await kept(shared)
            assert await storage.find_missing([SMALL]) == set()
        assert budget.used_bytes == 0
    assert there.small_reads == 1


async def test_without_memory_small_blobs_are_kept_before_they_are_answered(
    tmp_path: Path,
) -> None:
    up, there = upstream("a")
    there.blobs[SMALL] = b"small"
    gate = asyncio.Event()
    async with node(tmp_path, up, memory=MemoryBudget(4)) as (store, storage, _):
        hold_batches(storage, gate)
        reading = asyncio.ensure_future(read(store, SMALL))
        await until(lambda: there.small_reads == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reading.done()
        gate.set()
        assert await reading == b"small"
        assert await storage.find_missing([SMALL]) == set()


async def test_what_is_pulled_in_quick_succession_becomes_durable_in_one_step(
    tmp_path: Path,
) -> None:
    up, there = upstream("a")
    blobs = {digest_of(data): data for data in (b"%d" % n for n in range(40))}
    there.blobs.update(blobs)
    steps: list[int] = []
    gate = asyncio.Event()
    async with node(tmp_path, up) as (store, storage, shared), asyncio.timeout(60):
        write = storage.write_small

        async def counted(
            given: Sequence[tuple[Digest, bytes]], *, provenance: Provenance
        ) -> list[FederationError | None]:
            steps.append(len(given))
            await gate.wait()
            return await write(given, provenance=provenance)

        storage.write_small = counted  # type: ignore[method-assign, assignment]
        asked = list(blobs)
        for at in range(0, 40, 10):
            digests = asked[at : at + 10]
            assert await store.read_small(digests) == [blobs[each] for each in digests]
        gate.set()
        await kept(shared)
        assert await storage.find_missing(blobs) == set()
    assert sum(steps) == 40
    assert len(steps) <= 2  # the one that was held up, and one for all that came meanwhile


async def test_who_waits_for_kept_blobs_does_not_wait_for_what_others_go_on_pulling(
    tmp_path: Path,
) -> None:
    up, there = upstream("a")
    there.blobs[SMALL] = b"small"
    others = {digest_of(data): data for data in (b"%d" % number for number in range(40))}
    there.blobs.update(others)
    rounds, wanted = 0, iter(others)
    async with node(tmp_path, up) as (store, storage, shared), asyncio.timeout(60):
        write = storage.write_small

        async def and_pull_another(
            blobs: Sequence[tuple[Digest, bytes]], *, provenance: Provenance
        ) -> list[FederationError | None]:
            nonlocal rounds
            rounds += 1
            refusals = await write(blobs, provenance=provenance)
            if (digest := next(wanted, None)) is not None:
                await store.read_small([digest])
            return refusals

        storage.write_small = and_pull_another  # type: ignore[method-assign, assignment]
        assert await store.read_small([SMALL]) == [b"small"]
        await shared.small.wait_kept()
        assert rounds < 5
        assert not await storage.find_missing([SMALL])


async def test_a_disk_that_fails_after_all_is_verified_fails_no_reader(tmp_path: Path) -> None:
    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    failed = asyncio.Event()

    def change(ingest: LocalIngest) -> None:
        append = ingest.append

        def refuse(*_: object) -> None:
            raise SourceUnavailable("disk", "receiving a blob: EIO")

        async def fail_at_the_end(data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
            if on_hashed is not None:
                ingest._write = refuse  # type: ignore[method-assign, assignment]
            try:
                await append(data, on_hashed)
            except SourceUnavailable:
                failed.set()
                raise

        ingest.append = fail_at_the_end  # type: ignore[method-assign]

    async def read_late(store: Readable) -> bytes:
        got = b""
        async with store.open_read(BLOB) as chunks:
            async for chunk in chunks:
                got += chunk
                await failed.wait()
        return got

    async with node(tmp_path, up) as (store, storage, _), asyncio.timeout(60):
        change_ingests(storage, change)
        assert list(await asyncio.gather(read(store), read_late(store))) == [DATA, DATA]
        assert await storage.find_missing([BLOB]) == {BLOB}
        assert storage.core.space.reserved_bytes == 0


async def test_without_memory_who_lags_behind_one_piece_reads_it_from_storage(
    tmp_path: Path,
) -> None:
    data = os.urandom(500_000)
    up, there = upstream("a", Script(chunk_bytes=len(data)))
    there.blobs[digest_of(data)] = data
    gate = asyncio.Event()
    async with node(tmp_path, up, memory=MemoryBudget(0)) as (store, storage, shared):
        hold_commits(storage, gate)
        async with store.open_read(digest_of(data), next_bytes=lambda: 50_000) as chunks:
            got = await anext(chunks)
            (pull,) = shared.pulls._pulls.values()
            await until(lambda: pull.buffer.stored_bytes == len(data))
            asyncio.get_running_loop().call_later(0.1, gate.set)
            async for chunk in chunks:
                got += chunk
    assert got == data
