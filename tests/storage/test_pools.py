"""What waits for the disk in one way does not hold up what waits in another, or not at all."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable

import pytest

from federation.core.digest import digest_of
from federation.core.index import Entry, EntryKey, EntryKind
from federation.storage.ingest import LocalIngest
from federation.storage.storage import Storage
from tests.storage.conftest import put, read, until

Opener = Callable[..., Awaitable[Storage]]
SIZE = 100_000
MANY = 40  # more than a pool has threads


class Held:
    """Stands in for a system call: every call waits until release() is called."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self._released = threading.Event()
        self.waiting = 0

    def __call__(self, *args: object) -> object:
        self.waiting += 1
        assert self._released.wait(60)
        return self._call(*args)

    def release(self) -> None:
        self._released.set()


async def _begun(storage: Storage) -> LocalIngest:
    data = os.urandom(SIZE)
    ingest = storage.begin(digest_of(data))
    await ingest.append(data)
    return ingest


async def _uploaded(storage: Storage) -> bool:
    return await (await _begun(storage)).commit()


async def test_uploads_that_wait_for_the_disk_hold_up_no_read(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage()
    data, small = os.urandom(SIZE), await put(storage, b"small")
    digest = await put(storage, data)
    key = EntryKey(EntryKind.ACTION_RESULT, "", b"name")
    await storage.put([Entry(key, b"value", "", 0.0, None)])
    held = Held(os.fdatasync)
    monkeypatch.setattr(os, "fdatasync", held)
    commits = [asyncio.ensure_future(_uploaded(storage)) for _ in range(MANY)]
    batch = asyncio.ensure_future(
        storage.write_small([(digest_of(data), data) for data in (os.urandom(SIZE),)])
    )

    async def all_threads_wait() -> bool:
        return held.waiting >= 8

    await until(all_threads_wait)
    async with asyncio.timeout(30):
        assert await read(storage, digest) == data
        assert await storage.read_small([digest, small]) == [data, b"small"]
        assert await storage.find_missing([digest, small]) == set()
        (entry,) = await storage.get([key])
        assert entry is not None
    assert not any(commit.done() for commit in commits)
    held.release()
    assert await asyncio.gather(*commits) == [True] * MANY
    assert await batch == [None]


async def test_an_ingest_that_syncs_at_its_commit_takes_the_last_bytes_without_the_disk(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    held = Held(os.fdatasync)
    monkeypatch.setattr(os, "fdatasync", held)
    ingest = storage.begin(digest_of(data))
    ingest.sync_at_commit()
    async with asyncio.timeout(60):
        await ingest.append(data)
    assert held.waiting == 0
    ingest.verify()
    committing = asyncio.ensure_future(ingest.commit())

    async def a_thread_waits() -> bool:
        return held.waiting > 0

    await until(a_thread_waits)
    assert not committing.done()
    held.release()
    assert await committing
    assert await read(storage, ingest.digest) == data


async def test_reads_that_wait_for_the_disk_hold_up_no_look_up_and_no_upload(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage()
    blobs = [await put(storage, os.urandom(SIZE)) for _ in range(MANY)]
    held = Held(os.pread)
    monkeypatch.setattr(os, "pread", held)
    reads = [asyncio.ensure_future(read(storage, digest)) for digest in blobs]

    async def all_threads_wait() -> bool:
        return held.waiting >= 8

    await until(all_threads_wait)
    async with asyncio.timeout(30):
        assert await storage.find_missing(blobs) == set()
        assert await storage.get([EntryKey(EntryKind.ACTION_RESULT, "", b"name")]) == [None]
        await put(storage, b"small")
        assert await _uploaded(storage) is True
    held.release()
    assert [digest_of(data) for data in await asyncio.gather(*reads)] == blobs
