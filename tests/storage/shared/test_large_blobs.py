"""Large blobs of a shared site: their way into the bucket, out of it, and into the caches."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import obstore
import pytest

from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.errors import (
    BlobNotFound,
    DigestMismatch,
    SourceUnavailable,
    StorageFailed,
    StorageFull,
)
from federation.storage.ingest import GrowingFile
from federation.storage.shared.naming import PART_BYTES, part_count
from federation.storage.shared.storage import SharedStorage
from tests.storage.conftest import until
from tests.support.object_store import BUCKET
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
SIZE = 2 * PART_BYTES + 1000  # three parts


def fresh(size_bytes: int) -> tuple[Digest, bytes]:
    data = os.urandom(size_bytes)
    return digest_of(data), data


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 1_000_000):
        yield data[at : at + 1_000_000]


async def read(store: SharedStorage, digest: Digest, **options: int) -> bytes:
    async with store.open_read(digest, **options) as chunks:  # type: ignore[arg-type]
        return b"".join([chunk async for chunk in chunks])


class Moved:
    """Counts the bytes between a node and the bucket, but for the few of the marker."""

    def __init__(self, store: SharedStorage) -> None:
        self._metric = store.core.metrics.bucket.bytes
        self._before = {way: self._now(way) for way in ("in", "out")}

    def _now(self, way: str) -> int:
        return int(self._metric.labels(way).value)

    def kib(self, way: str) -> int:
        return (self._now(way) - self._before[way] + 500) // 1024


async def kept(store: SharedStorage, digest: Digest) -> None:
    """Wait until the cache of the node that received a blob has it."""

    async def has() -> bool:
        return not await store.core.cache.find_missing([digest])

    await until(has)


async def test_each_part_is_sent_once_and_read_by_its_own_node_from_the_cache(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, _ = nodes
    digest, data = fresh(SIZE)
    moved = Moved(one)
    assert await one.write(digest, pieces(data))
    assert sorted(site.objects().values()) == [1000, PART_BYTES, PART_BYTES]
    assert moved.kib("out") in range(SIZE // 1024, SIZE // 1024 + 10)
    await kept(one, digest)
    assert await read(one, digest) == data
    assert moved.kib("in") == 0


async def test_a_held_blob_that_comes_in_one_message_is_not_sent_again(
    nodes: list[SharedStorage],
) -> None:
    one, other = nodes
    digest, data = fresh(100_000)
    assert await one.write_one(digest, data)
    moved = Moved(other)
    assert not await other.write_one(digest, data)
    assert moved.kib("out") == 0


async def test_each_part_is_fetched_once_by_another_node_for_any_number_of_readers(
    nodes: list[SharedStorage],
) -> None:
    one, other = nodes
    digest, data = fresh(SIZE)
    await one.write(digest, pieces(data))
    moved = Moved(other)
    found = await asyncio.gather(*(read(other, digest) for _ in range(8)))
    assert all(each == data for each in found)
    await kept(other, digest)
    assert await read(other, digest, offset=5) == data[5:]
    assert moved.kib("in") in range(SIZE // 1024, SIZE // 1024 + 10)


async def test_a_read_of_the_end_fetches_the_part_of_the_end_only(
    nodes: list[SharedStorage],
) -> None:
    one, other = nodes
    digest, data = fresh(4 * PART_BYTES)
    await one.write(digest, pieces(data))
    moved = Moved(other)
    assert await read(other, digest, offset=digest.size_bytes - 10) == data[-10:]
    assert moved.kib("in") == PART_BYTES // 1024


async def test_d10_a_cache_that_was_lost_is_filled_again(site: TestSite, tmp_path: Path) -> None:
    digest, data = fresh(SIZE)
    async with site.node(tmp_path / "data") as node:
        await node.write(digest, pieces(data))
    shutil.rmtree(tmp_path / "data")
    async with site.node(tmp_path / "data") as node:
        assert await node.find_missing([digest]) == set()
        assert await read(node, digest) == data


async def test_a_blob_larger_than_the_cache_is_refused_before_a_byte_is_sent(
    site: TestSite, tmp_path: Path
) -> None:
    digest, _ = fresh(PART_BYTES)
    async with site.node(tmp_path / "data", cache=4 * 2**20) as node:
        with pytest.raises(StorageFull):
            node.begin(digest)
    assert site.objects() == {}


async def test_d10_readers_do_without_the_cache_where_it_has_no_room(
    site: TestSite, tmp_path: Path
) -> None:
    digest, data = fresh(SIZE)
    async with site.node(tmp_path / "a") as one:
        await one.write(digest, pieces(data))
    async with site.node(tmp_path / "b", cache=4 * 2**20) as other:
        assert await read(other, digest) == data
        assert (
            await read(other, digest, offset=PART_BYTES - 5, limit=10)
            == (data[PART_BYTES - 5 : PART_BYTES + 5])
        )


async def test_d10_uploads_go_on_while_the_cache_is_full_of_what_cannot_be_evicted_yet(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "a", cache=64 * 2**20) as node:
        for _ in range(80):
            digest, data = fresh(2**20)
            assert await node.write(digest, pieces(data))
    assert len(site.objects()) == 80


async def test_d11_an_upload_with_wrong_bytes_leaves_no_object(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, other = nodes
    digest, data = fresh(SIZE)
    with pytest.raises(DigestMismatch):
        await one.write(digest, pieces(data[:-1] + bytes([data[-1] ^ 1])))
    await until(lambda: no_objects(site))
    assert await other.find_missing([digest]) == {digest}


async def no_objects(site: TestSite) -> bool:
    return not await asyncio.to_thread(site.objects)


async def test_d11_an_upload_that_is_given_up_leaves_no_object(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    digest, data = fresh(SIZE)
    ingest = nodes[0].begin(digest)
    await ingest.append(data[: PART_BYTES + 1])
    await ingest.abort()
    await until(lambda: no_objects(site))


class LateClock(SystemClock):
    """The machine's clocks, and what has passed meanwhile."""

    slept_s = 0.0  # suspended: only the wall clock knows
    slow_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.slow_s

    def wall_s(self) -> float:
        return super().wall_s() + self.slow_s + self.slept_s


@pytest.mark.parametrize("way", ["slept_s", "slow_s"])
async def test_an_upload_that_the_sweep_may_have_hit_is_refused_its_row(
    site: TestSite, tmp_path: Path, way: str
) -> None:
    async with site.node(tmp_path / "data") as node:
        clock = node.core.clock = LateClock()
        digest, data = fresh(100 * 1024)
        ingest = node.begin(digest)
        await ingest.append(data)
        setattr(clock, way, 86_401.0)
        with pytest.raises(StorageFailed, match="more than a day"):
            await ingest.commit()
        await ingest.abort()
        assert await node.find_missing([digest]) == {digest}


async def test_what_loses_the_race_for_its_row_is_deleted_once_readers_have_finished(
    site: TestSite, nodes: list[SharedStorage], tmp_path: Path
) -> None:
    one, other = nodes
    digest, data = fresh(SIZE)
    first, second = one.begin(digest), other.begin(digest)
    for ingest in (first, second):
        await ingest.append(data)
    assert [await first.commit(), await second.commit()] == [True, False]
    assert len(site.objects()) == 2 * part_count(SIZE)
    site.sql("UPDATE gone SET due_ms = 0")  # as if a lease had passed

    async def one_upload() -> bool:
        return len(await asyncio.to_thread(site.objects)) == part_count(SIZE)

    await until(one_upload)
    async with site.node(tmp_path / "third") as third:
        assert await read(third, digest) == data


@pytest.mark.parametrize("change", ["deleted", "changed", "shortened"])
async def test_d05_a_blob_whose_object_is_wrong_is_missing_from_then_on(
    site: TestSite, nodes: list[SharedStorage], change: str
) -> None:
    one, other = nodes
    digest, data = fresh(SIZE)
    fine, fine_data = fresh(100_000)
    await one.write(digest, pieces(data))
    await one.write(fine, pieces(fine_data))
    bucket = site.servers.bucket.store(BUCKET, site.prefix)
    name = next(
        each for each in site.objects() if each.endswith("-00000") and digest.hash_hex in each
    )
    if change == "deleted":
        obstore.delete(bucket, name)
    else:
        obstore.put(bucket, name, b"x" * (PART_BYTES if change == "changed" else 10))
    with pytest.raises(BlobNotFound):
        await read(other, digest)
    assert await other.find_missing([digest, fine]) == {digest}
    assert await one.find_missing([digest, fine]) == {digest}
    assert await one.write(digest, pieces(data)), "it can come again"
    assert await read(other, digest) == data


async def test_d05_what_a_spool_gives_back_wrong_is_found_by_a_read_of_its_part_alone(
    nodes: list[SharedStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row has hashes of the bytes that came, and not of those that were sent to the bucket."""
    one, other = nodes
    digest, data = fresh(SIZE)
    read_back = GrowingFile.read

    async def read_wrong(file: GrowingFile, offset: int, size_bytes: int) -> bytes:
        found = await read_back(file, offset, size_bytes)
        return found if offset else bytes([found[0] ^ 1]) + found[1:]

    with monkeypatch.context() as patched:
        patched.setattr(GrowingFile, "read", read_wrong)
        assert await one.write(digest, pieces(data))
    assert await read(other, digest, offset=PART_BYTES, limit=10) == data[PART_BYTES:][:10]
    with pytest.raises(BlobNotFound):
        await read(other, digest, offset=10, limit=10)


async def test_d06_no_blob_is_set_aside_while_the_bucket_itself_is_another_one(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, other = nodes
    digest, data = fresh(100_000)
    await one.write(digest, pieces(data))
    bucket = site.servers.bucket.store(BUCKET, site.prefix)
    obstore.delete(bucket, [*site.objects(), "site.json"])
    with pytest.raises(SourceUnavailable):
        await read(other, digest)
    assert await other.find_missing([digest]) == set()


async def test_a_batch_from_the_cache_has_nothing_that_the_site_lost(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    """Closures are read in batches, and what they found has to be there for every node."""
    one, other = nodes
    digest, data = fresh(1000)
    await one.write_small([(digest, data)])
    assert await other.read_small([digest]) == [data]
    await kept(other, digest)
    site.sql("DELETE FROM blob")
    assert await other.read_small([digest]) == [None]
    assert await read(other, digest) == data, "its bytes are right"
    await other.core.uses.flush()
    assert await other.read_small([digest]) == [None], "telling of a use is no lease"


async def test_a_blob_that_nobody_reads_any_more_is_not_fetched_to_its_end(
    nodes: list[SharedStorage],
) -> None:
    one, other = nodes
    digest, data = fresh(8 * PART_BYTES)
    await one.write(digest, pieces(data))
    moved = Moved(other)
    async with other.open_read(digest) as chunks:
        async for _ in chunks:
            break

    async def has_stopped() -> bool:
        return repr(other._fills).startswith("<Fills 0 ")

    await until(has_stopped)
    assert moved.kib("in") < digest.size_bytes // 1024
    assert await read(other, digest) == data


async def test_a_read_of_nothing_at_the_end_asks_the_bucket_for_nothing(
    nodes: list[SharedStorage],
) -> None:
    one, other = nodes
    digest, data = fresh(SIZE)
    await one.write(digest, pieces(data))
    moved = Moved(other)
    assert await read(other, digest, offset=SIZE) == b""
    assert await read(other, digest, offset=5, limit=0) == b""
    assert moved.kib("in") == 0
