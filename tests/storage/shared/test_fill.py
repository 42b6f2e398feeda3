"""What readers of a fill see, and when, with a cache and a bucket that a test holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from federation.core.digest import Digest, Hasher, digest_of, new_hasher
from federation.core.errors import BlobDamaged, DigestMismatch, SourceUnavailable, StorageFull
from federation.core.store import Piece
from federation.storage.shared import fill as fill_module
from federation.storage.shared import naming, part_hashes
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.fill import BucketFill, CacheTrouble
from federation.storage.shared.naming import PART_BYTES
from federation.storage.shared.part_hashes import PartHasher, hash_part
from tests.support.polling import until

FIRST, LAST = bytes(range(256)) * (PART_BYTES // 256), b"the last part"
BLOB = FIRST + LAST
PLACES, MANY, SMALL_PART_BYTES = 12, 20, 1024
DIGEST = digest_of(BLOB)
UNPROVEN_HASHES = hash_part(FIRST) + hash_part(LAST)  # of a row of an earlier version
UNPROVEN = BlobAt(len(BLOB), 1, b"attempt1", UNPROVEN_HASHES, None)


class HeldUpIngest:
    """The cache: hashes a part at once, stores it once the test lets it, and keeps it."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.hasher = new_hasher(digest.function)
        self.hashed = b""
        self.stored = b""
        self.allowed = asyncio.Semaphore(0)
        self.refusal: Exception | None = None
        self.committed = False

    def hash_with(self, hasher: Hasher) -> None:
        self.hasher = hasher

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        self.hashed += data
        self.hasher.update(data)
        if on_hashed is not None:
            on_hashed()
        await self.allowed.acquire()
        if self.refusal is not None:
            raise self.refusal
        self.stored += data

    def verify(self) -> None:
        if self.hasher.digest() != self.digest.hash:
            raise DigestMismatch(self.digest, "other bytes were sent")

    async def open_growing(self) -> HeldUpIngest:
        return self

    async def read(self, offset: int, size_bytes: int) -> bytes:
        return self.stored[offset : offset + size_bytes]

    async def close(self) -> None:
        return

    async def commit(self) -> bool:
        self.verify()
        self.committed = True
        return True

    async def abort(self) -> None:
        return


class FillCore:
    """The parts of SiteContext that a fill uses."""

    def __init__(self, blob: bytes = BLOB) -> None:
        self.blob = blob
        self.fetching = asyncio.Semaphore(PLACES)
        self.bucket = self
        self.fetched = 0
        self.damaged: list[str] = []

    async def get(self, name: str, size_bytes: int, *, in_one: bool = False) -> memoryview:
        start = int(name.rpartition("-")[2]) * naming.PART_BYTES
        found = memoryview(self.blob)[start : start + naming.PART_BYTES]
        assert len(found) == size_bytes
        self.fetched += 1
        return found

    async def set_aside(self, digest: Digest, at: BlobAt, reason: str) -> None:
        self.damaged.append(reason)


def row_of(blob: bytes) -> BlobAt:
    """Return the row of a blob: its hashes prove the whole."""
    hasher = PartHasher(DIGEST.function)
    hasher.update(blob)
    return BlobAt(len(blob), 1, b"attempt1", hasher.hashes(), None)


AT = row_of(BLOB)


@asynccontextmanager
async def filling(
    digest: Digest = DIGEST, at: BlobAt = AT, blob: bytes = BLOB
) -> AsyncIterator[tuple[BucketFill, HeldUpIngest, FillCore]]:
    core, ingest = FillCore(blob), HeldUpIngest(digest)
    fill = BucketFill(cast(Any, core), digest, at, cast(Any, ingest))
    fill.readers = 1
    running = asyncio.ensure_future(fill.run())
    try:
        async with asyncio.timeout(60):
            yield fill, ingest, core
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert core.fetching._value == PLACES, "all places are given back"


@asynccontextmanager
async def filling_many(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[BucketFill, HeldUpIngest, FillCore, bytes]]:
    """Fill a blob of MANY small parts."""
    for module in (naming, fill_module, part_hashes):
        monkeypatch.setattr(module, "PART_BYTES", SMALL_PART_BYTES)
    blob = b"".join(bytes([part]) * SMALL_PART_BYTES for part in range(MANY))
    async with filling(digest_of(blob), row_of(blob), blob) as (fill, ingest, core):
        yield fill, ingest, core, blob


async def test_a_part_is_read_while_the_cache_still_stores_it() -> None:
    async with filling() as (fill, ingest, _):
        assert await fill.read(5, 100) == FIRST[5:105]
        assert ingest.stored == b""


async def test_what_was_stored_is_read_from_the_cache() -> None:
    async with filling() as (fill, ingest, _):
        ingest.allowed.release()
        ingest.allowed.release()
        await until(lambda: ingest.committed, "the cache has the blob")
        ingest.stored = b"x" * len(ingest.stored)
        assert await fill.read(0, 10) == b"x" * 10


async def test_a_read_over_the_end_of_what_is_stored_gives_that_first() -> None:
    async with filling() as (fill, ingest, _):
        ingest.allowed.release()
        ingest.allowed.release()
        await until(lambda: ingest.committed, "the cache has the blob")
        assert await fill.read(PART_BYTES - 3, 100) == BLOB[PART_BYTES - 3 :]


async def test_the_last_part_is_read_as_soon_as_it_came_if_the_parts_prove_the_whole() -> None:
    async with filling() as (fill, ingest, _):
        assert await fill.read(PART_BYTES, 100) == LAST
        assert ingest.stored == b""
        ingest.allowed.release()
        ingest.allowed.release()
        await until(lambda: ingest.committed, "the cache has the blob")


@pytest.mark.parametrize("changed", [0, PART_BYTES + 1])
async def test_a_wrong_part_is_never_shown(changed: int) -> None:
    blob = BLOB[:changed] + bytes([BLOB[changed] ^ 1]) + BLOB[changed + 1 :]
    async with filling(blob=blob) as (fill, ingest, core):
        with pytest.raises(BlobDamaged):
            await fill.wait_beyond(changed)
        assert fill.available_bytes == changed // PART_BYTES * PART_BYTES
        assert len(core.damaged) == 1
        assert not ingest.committed


async def test_right_parts_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with filling_many(monkeypatch) as (_, _ingest, _core, blob):
        digest, at = digest_of(blob), row_of(blob)
    turned = blob[SMALL_PART_BYTES:] + blob[:SMALL_PART_BYTES]
    async with filling(digest, at, turned) as (fill, _, core):
        with pytest.raises(BlobDamaged):
            await fill.wait_beyond(0)
        assert len(core.damaged) == 1


async def test_the_last_part_waits_until_the_whole_was_compared() -> None:
    async with filling(at=UNPROVEN) as (fill, ingest, core):
        reading = asyncio.ensure_future(fill.read(PART_BYTES, 100))
        await until(lambda: core.fetched == 2 and ingest.hashed == FIRST, "both parts came")
        done, _ = await asyncio.wait({reading}, timeout=0)
        assert not done
        ingest.allowed.release()
        assert await reading == LAST


async def test_the_last_part_does_not_wait_until_it_is_stored() -> None:
    async with filling(at=UNPROVEN) as (fill, ingest, _):
        ingest.allowed.release()
        assert await fill.read(PART_BYTES, 100) == LAST
        assert ingest.stored == FIRST


async def test_parts_are_read_while_the_cache_stores_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with filling_many(monkeypatch) as (fill, ingest, _, blob):
        for part in range(4):
            start = part * SMALL_PART_BYTES
            assert await fill.read(start + 5, 10**6) == blob[start + 5 : start + SMALL_PART_BYTES]
        assert ingest.stored == b""


async def test_a_cache_that_stores_nothing_stops_the_fetching(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with filling_many(monkeypatch) as (fill, _, core, _blob):
        shown_bytes = 4 * SMALL_PART_BYTES
        await until(lambda: fill.available_bytes >= shown_bytes and core.fetched >= 7, "they came")
        assert (fill.available_bytes, core.fetched) == (shown_bytes, 7)


async def test_a_blob_of_many_parts_is_read_and_stored_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with filling_many(monkeypatch) as (fill, ingest, _, blob):
        read = b""
        while len(read) < len(blob):
            ingest.allowed.release()
            read += await fill.read(len(read), 700)
        assert read == blob
        await until(lambda: ingest.committed, "the cache has the blob")
        assert ingest.stored == blob


async def test_a_fill_that_is_ended_gives_back_the_parts_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with filling_many(monkeypatch) as (_, _ingest, core, _blob):
        await until(lambda: core.fetched >= 7, "all that may wait for the cache came")
        assert core.fetching._value <= PLACES - 7


async def test_the_last_part_of_other_bytes_is_never_shown() -> None:
    other = Digest(bytes(32), len(BLOB))
    async with filling(other, UNPROVEN) as (fill, ingest, core):
        ingest.allowed.release()
        ingest.allowed.release()
        with pytest.raises(BlobDamaged):
            await fill.read(PART_BYTES, 100)
        assert len(core.damaged) == 1
        assert not ingest.committed


async def test_readers_of_shown_parts_that_the_cache_refuses_go_on_without_it() -> None:
    async with filling() as (fill, ingest, core):
        await fill.wait_beyond(len(BLOB) - 1)
        ingest.refusal = StorageFull("no room")
        ingest.allowed.release()
        await until(lambda: fill.error is not None, "the cache has refused")
        with pytest.raises(CacheTrouble):
            await fill.read(5, 100)
        assert core.damaged == []
        assert not ingest.committed


async def test_readers_of_a_part_that_the_cache_refuses_are_told_to_go_on_without_it() -> None:
    async with filling(at=UNPROVEN) as (fill, ingest, core):
        await fill.wait_beyond(0)
        ingest.refusal = StorageFull("no room")
        ingest.allowed.release()
        with pytest.raises(CacheTrouble, match="no room"):
            await fill.wait_beyond(PART_BYTES)
        with pytest.raises(CacheTrouble):
            await fill.read(5, 100)
        assert core.damaged == []


async def test_whoever_waits_hears_that_the_fill_was_ended() -> None:
    async with filling(at=UNPROVEN) as (fill, _, _):
        waiting = asyncio.ensure_future(fill.wait_beyond(PART_BYTES))
        await fill.wait_beyond(0)
    with pytest.raises(SourceUnavailable, match="given up"):
        await waiting
