"""Blobs whose size, or whose hash, is known only when their last byte has come."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.config.model import LimitsConfig, StorageConfig
from federation.core.clock import SystemClock
from federation.core.digest import DigestFunction, digest_of
from federation.core.errors import BlobTooLarge, DigestMismatch
from federation.core.index import Entry, EntryKey, EntryKind
from federation.observability.metrics import Metrics
from federation.storage.storage import Storage

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
INLINE_MAX, MAX_BLOB = 16 * 1024, 1_000_000


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    settings = StorageConfig(quota=10**9, reserve=0, inline_max=INLINE_MAX, max_blob=MAX_BLOB)
    found = await Storage.open(
        tmp_path / "data", settings, LimitsConfig(), Metrics(), SystemClock()
    )
    yield found
    await found.close()


async def read(storage: Storage, data: bytes, function: DigestFunction = SHA256) -> bytes:
    async with storage.open_read(digest_of(data, function)) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("function", DigestFunction)
@pytest.mark.parametrize("size", [0, 1, INLINE_MAX, INLINE_MAX + 1, 300_000, MAX_BLOB])
@pytest.mark.parametrize("step", [7_000, MAX_BLOB])
async def test_the_digest_is_that_of_whatever_came(
    storage: Storage, size: int, step: int, function: DigestFunction
) -> None:
    data = os.urandom(size)
    ingest = storage.begin_unsized(function)
    for at in range(0, size, step):
        await ingest.append(data[at : at + step])
    assert await ingest.commit() is (size > 0)
    assert ingest.digest == digest_of(data, function)
    assert await read(storage, data, function) == data
    assert await storage.size_of(function, ingest.digest.hash) == size


async def test_a_blob_that_is_held_already_is_not_stored_twice(storage: Storage) -> None:
    data = os.urandom(100_000)
    for expected in (True, False):
        ingest = storage.begin_unsized(SHA256, digest_of(data).hash)
        await ingest.append(data)
        assert await ingest.commit() is expected
    assert storage.core.space.reserved_bytes == 0


@pytest.mark.parametrize("size", [10, 100_000])
async def test_other_bytes_than_the_hash_names_are_refused_and_leave_nothing(
    storage: Storage, size: int
) -> None:
    wanted, data = digest_of(b"right"), os.urandom(size)
    ingest = storage.begin_unsized(SHA256, wanted.hash)
    await ingest.append(data)
    with pytest.raises(DigestMismatch):
        await ingest.commit()
    await storage.core.background.drain()
    assert await storage.find_missing([wanted, digest_of(data)]) == {wanted, digest_of(data)}
    assert storage.core.space.reserved_bytes == 0


@pytest.mark.parametrize("step", [100_000, MAX_BLOB + 1])
async def test_a_blob_that_grows_too_large_is_refused_at_the_first_byte_too_many(
    storage: Storage, step: int
) -> None:
    ingest = storage.begin_unsized(SHA256)
    for _ in range(MAX_BLOB // step):
        await ingest.append(bytes(step))
    with pytest.raises(BlobTooLarge):
        await ingest.append(bytes(step))
    assert ingest.received_bytes <= MAX_BLOB
    await ingest.abort()
    assert storage.core.space.reserved_bytes == 0


async def test_one_that_is_announced_as_too_large_is_refused_before_any_byte(
    storage: Storage,
) -> None:
    with pytest.raises(BlobTooLarge):
        storage.begin_unsized(SHA256, announced_bytes=MAX_BLOB + 1)


@pytest.mark.parametrize("size", [10, 100_000])
async def test_one_that_is_dropped_leaves_nothing(storage: Storage, size: int) -> None:
    ingest = storage.begin_unsized(SHA256)
    await ingest.append(bytes(size))
    await ingest.abort()
    assert storage.core.space.reserved_bytes == 0
    assert await storage.size_of(SHA256, digest_of(bytes(size)).hash) is None


async def test_the_size_of_a_blob_is_known_by_its_function_and_hash(storage: Storage) -> None:
    data = b"some"
    await storage.write_small([(digest_of(data), data)])
    assert await storage.size_of(SHA256, digest_of(data).hash) == 4
    assert await storage.size_of(BLAKE3, digest_of(data).hash) is None
    for function in DigestFunction:
        assert await storage.size_of(function, digest_of(b"", function).hash) == 0


async def test_entries_are_found_by_the_beginning_of_their_names_the_newest_first(
    storage: Storage,
) -> None:
    def key(name: bytes, instance: str = "i") -> EntryKey:
        return EntryKey(EntryKind.ACTION_RESULT, instance, name)

    for name, instance in [(b"ab1", "i"), (b"ab2", "i"), (b"ac1", "i"), (b"ab3", "j")]:
        await storage.put([Entry(key(name, instance), name, "label")])
    await storage.put([Entry(key(b"ab1"), b"again", "label")])
    found = await storage.get_like([key(b"ab"), key(b"ac1"), key(b"zz")])
    assert [entry.value for entry in found] == [b"again", b"ac1", b"ab2"]
    assert [entry.key for entry in found] == [key(b"ab1"), key(b"ac1"), key(b"ab2")]
