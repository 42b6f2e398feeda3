"""What readers of a fill see, and when, with a cache and a bucket that a test holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobDamaged, DigestMismatch, SourceUnavailable, StorageFull
from federation.core.store import Piece
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.fill import BucketFill, CacheTrouble
from federation.storage.shared.naming import PART_BYTES, hash_part
from tests.support.polling import until

FIRST, LAST = bytes(range(256)) * (PART_BYTES // 256), b"the last part"
BLOB = FIRST + LAST
DIGEST = digest_of(BLOB)
AT = BlobAt(len(BLOB), 1, b"attempt1", hash_part(FIRST) + hash_part(LAST), None)


class HeldUpIngest:
    """The cache: stores a part once the test lets it, and keeps what it stored."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.stored = b""
        self.allowed = asyncio.Semaphore(0)
        self.refusal: Exception | None = None
        self.committed = False

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        await self.allowed.acquire()
        if self.refusal is not None:
            raise self.refusal
        self.stored += data

    def verify(self) -> None:
        if digest_of(self.stored) != self.digest:
            raise DigestMismatch(self.digest, "other bytes were sent")

    async def open_growing(self) -> HeldUpIngest:
        return self

    async def read(self, offset: int, size_bytes: int) -> bytes:
        return self.stored[offset : offset + size_bytes]

    async def close(self) -> None:
        return

    async def commit(self) -> bool:
        self.committed = True
        return True

    async def abort(self) -> None:
        return


class FillCore:
    """The parts of SiteContext that a fill uses."""

    def __init__(self) -> None:
        self.fetching = asyncio.Semaphore(4)
        self.bucket = self
        self.damaged: list[str] = []

    async def get(self, name: str, size_bytes: int, *, in_one: bool = False) -> memoryview:
        found = {"00000": FIRST, "00001": LAST}[name.rpartition("-")[2]]
        assert len(found) == size_bytes
        return memoryview(found)

    async def set_aside(self, digest: Digest, at: BlobAt, reason: str) -> None:
        self.damaged.append(reason)


@asynccontextmanager
async def filling(
    digest: Digest = DIGEST,
) -> AsyncIterator[tuple[BucketFill, HeldUpIngest, FillCore]]:
    core, ingest = FillCore(), HeldUpIngest(digest)
    fill = BucketFill(cast(Any, core), digest, AT, cast(Any, ingest))
    fill.readers = 1
    running = asyncio.ensure_future(fill.run())
    try:
        async with asyncio.timeout(60):
            yield fill, ingest, core
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert core.fetching._value == 4, "all places are given back"


async def test_a_part_is_read_while_the_cache_still_stores_it() -> None:
    async with filling() as (fill, ingest, _):
        assert await fill.read(5, 100) == FIRST[5:105]
        assert ingest.stored == b""


async def test_what_was_stored_is_read_from_the_cache() -> None:
    async with filling() as (fill, ingest, _):
        ingest.allowed.release()
        ingest.allowed.release()
        await fill.wait_beyond(len(BLOB) - 1)
        ingest.stored = b"x" * len(ingest.stored)
        assert await fill.read(0, 10) == b"x" * 10


async def test_a_read_over_the_end_of_what_is_stored_gives_that_first() -> None:
    async with filling() as (fill, ingest, _):
        ingest.allowed.release()
        ingest.allowed.release()
        await fill.wait_beyond(len(BLOB) - 1)
        assert await fill.read(PART_BYTES - 3, 100) == BLOB[PART_BYTES - 3 :]


async def test_the_last_part_waits_until_the_whole_was_compared() -> None:
    async with filling() as (fill, ingest, _):
        ingest.allowed.release()
        reading = asyncio.ensure_future(fill.read(PART_BYTES, 100))
        await until(lambda: ingest.stored, "the first part is stored")
        done, _ = await asyncio.wait({reading}, timeout=0)
        assert not done
        ingest.allowed.release()
        assert await reading == LAST


async def test_the_last_part_of_other_bytes_is_never_shown() -> None:
    other = Digest(bytes(32), len(BLOB))
    async with filling(other) as (fill, ingest, core):
        ingest.allowed.release()
        ingest.allowed.release()
        with pytest.raises(BlobDamaged):
            await fill.read(PART_BYTES, 100)
        assert len(core.damaged) == 1
        assert not ingest.committed


async def test_readers_of_a_part_that_the_cache_refuses_are_told_to_go_on_without_it() -> None:
    async with filling() as (fill, ingest, core):
        await fill.wait_beyond(0)
        ingest.refusal = StorageFull("no room")
        ingest.allowed.release()
        with pytest.raises(CacheTrouble, match="no room"):
            await fill.wait_beyond(PART_BYTES)
        with pytest.raises(CacheTrouble):
            await fill.read(5, 100)
        assert core.damaged == []


async def test_whoever_waits_hears_that_the_fill_was_ended() -> None:
    async with filling() as (fill, _, _):
        waiting = asyncio.ensure_future(fill.wait_beyond(PART_BYTES))
        await fill.wait_beyond(0)
    with pytest.raises(SourceUnavailable, match="given up"):
        await waiting
