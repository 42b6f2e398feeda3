"""Damage on the disk: never wrong bytes, set aside, healed by the next upload."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobDamaged, BlobNotFound
from federation.storage.storage import Storage
from federation.storage.upkeep.scrub import Scrubber, verify_slice
from tests.storage.conftest import put, read, short, until

Opener = Callable[..., Awaitable[Storage]]
SIZE = 200_000


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _replace(path: Path, how: str) -> None:
    if how == "cut":
        os.truncate(path, SIZE // 2)
        return
    if how == "grown":
        with path.open("ab") as file:
            file.write(b"x")
        return
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "link":
        outside = path.parent.parent / "outside"
        outside.write_bytes(os.urandom(SIZE))
        path.symlink_to(outside)


def _path(storage: Storage, digest: Digest) -> Path:
    return Path(storage.core.directory.blob_path(digest))


async def _heals(storage: Storage, digest: Digest, data: bytes) -> None:
    assert await storage.find_missing([digest]) == {digest}
    assert await put(storage, data) == digest
    assert await read(storage, digest) == data
    assert await storage.find_missing([digest]) == set()


async def test_s15_others_hear_of_damage_though_the_reader_that_found_it_leaves(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    digest = await put(storage, os.urandom(SIZE))
    _replace(_path(storage, digest), "cut")
    submit, committed = storage.core.writer.submit, asyncio.Event()

    async def slowly(work: Any, size_bytes: int = 0) -> Any:
        done = await submit(work, size_bytes)
        committed.set()
        await asyncio.sleep(0.1)
        return done

    storage.core.writer.submit = slowly  # type: ignore[method-assign]
    epoch = storage.core.epoch.value
    reading = asyncio.ensure_future(read(storage, digest))
    await committed.wait()
    reading.cancel()
    await asyncio.wait([reading])

    async def is_told() -> bool:
        return storage.core.epoch.value > epoch

    await until(is_told)


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
async def test_s15_a_flipped_byte_is_never_served_and_heals(open_storage: Opener, at: int) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    _flip(_path(storage, digest), at)
    with pytest.raises(BlobNotFound):
        await read(storage, digest)
    assert await storage.read_small([digest]) == [None]
    await _heals(storage, digest, data)
    assert len(list(storage.core.directory.quarantine.iterdir())) == 1


async def test_s15_a_large_blob_s_last_chunk_is_withheld_until_it_matched(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    data = os.urandom(5 * 1024 * 1024)
    ingest = storage.begin(digest_of(data))
    await ingest.append(data)
    await ingest.commit()
    _flip(_path(storage, digest_of(data)), 0)
    got = b""
    async with storage.open_read(digest_of(data)) as chunks:
        with pytest.raises(BlobDamaged):  # noqa: PT012 - it raises between chunks
            async for chunk in chunks:
                got += chunk
    assert 0 < len(got) < len(data)
    assert await storage.find_missing([digest_of(data)]) == {digest_of(data)}


@pytest.mark.parametrize("how", ["cut", "grown", "gone", "folder", "fifo", "link"])
async def test_s16_s17_whatever_lies_there_instead_is_a_miss_and_heals(
    open_storage: Opener, how: str
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    _replace(_path(storage, digest), how)
    with pytest.raises(BlobNotFound):
        await read(storage, digest)
    await _heals(storage, digest, data)


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown"])
async def test_s15_damage_to_a_blob_in_the_catalogue_is_never_served_and_heals(
    open_storage: Opener, damage: str
) -> None:
    data = os.urandom(700)
    damaged = {"flipped": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "grown": data + b"x"}
    first = await open_storage()
    digest = await put(first, data)
    connection = apsw.Connection(str(first.core.directory.catalogue))
    connection.set_busy_timeout(5000)
    connection.execute("UPDATE small SET data = ?", (damaged[damage],))
    connection.close()
    storage = await open_storage()  # as another process, which has never seen the right bytes
    assert await storage.read_small([digest]) == [None]
    with pytest.raises(BlobNotFound):
        await read(storage, digest)
    await _heals(storage, digest, data)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "batch"])
@pytest.mark.parametrize("how", ["cut", "gone", "folder", "link"])
async def test_s17_an_upload_heals_what_nobody_has_noticed_yet(
    open_storage: Opener, how: str, streamed: bool
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    _replace(_path(storage, digest), how)
    if streamed:
        ingest = storage.begin(digest)
        await ingest.append(data)
        assert await ingest.commit()
    else:
        await put(storage, data)
    assert _path(storage, digest).read_bytes() == data
    assert await read(storage, digest) == data


@pytest.mark.parametrize("how", ["cut", "gone", "folder", "link"])
async def test_s17_find_missing_notices_first(open_storage: Opener, how: str) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    _replace(_path(storage, digest), how)
    await _heals(storage, digest, data)


async def test_s15_a_small_blob_damaged_in_the_catalogue_is_a_miss_and_heals(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    data = b"small blob"
    digest = await put(storage, data)
    connection = apsw.Connection(str(storage.core.directory.catalogue))
    connection.execute("UPDATE small SET data = CAST('smell blob' AS BLOB)")
    connection.close()
    assert await storage.read_small([digest]) == [None]

    async def missing() -> bool:
        return await storage.find_missing([digest]) == {digest}

    await until(missing)
    await _heals(storage, digest, data)


async def test_s15_below_the_file_system_an_old_blob_is_verified_before_it_is_read(
    open_storage: Opener,
) -> None:
    storage = await open_storage(short(verify_after=0.0))
    digest = await put(storage, os.urandom(SIZE))
    path = _path(storage, digest)
    _flip(path, 9)
    connection = apsw.Connection(str(storage.core.directory.catalogue))
    connection.set_busy_timeout(5000)
    connection.execute("UPDATE blob SET ctime_ns = ?", (path.stat().st_ctime_ns,))
    connection.close()
    with pytest.raises(BlobNotFound):
        await read(storage, digest)


async def test_s18_a_scrub_finds_all_damage_and_nothing_else(open_storage: Opener) -> None:
    storage = await open_storage()
    blobs = [await put(storage, os.urandom(SIZE // 2)) for _ in range(60)]
    damaged = set(blobs[::10])
    for digest in damaged:
        _flip(_path(storage, digest), 3)
    after: bytes | None = b""
    while after is not None:
        found = await storage.core.pool.run(verify_slice, storage.core, after, 2**62, 7)
        await Scrubber(storage.core).note(found)
        after = found.last_key
    assert await storage.find_missing(blobs) == damaged


async def test_s20_s21_strays_and_left_overs_are_swept_and_blobs_stay(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    folder = _path(storage, digest).parent
    running = storage.begin(digest_of(b"x" * SIZE))
    await running.append(b"x" * (SIZE - 1))
    for number in range(700):
        (storage.core.directory.incoming / f"0123456789ab-{number}").write_bytes(b"left")
    (folder / "stray").write_bytes(b"x")
    (folder / "folder").mkdir()
    (folder / f"{digest.hash_hex[:2]}{'0' * 62}-4").write_bytes(b"fake")
    (folder / f"{digest.hash_hex}-{SIZE + 1}").write_bytes(b"another size")
    await storage.maintenance.sweep_all()
    assert [path.name for path in folder.iterdir()] == [f"{digest.hash_hex}-{SIZE}"]
    assert len(list(storage.core.directory.incoming.iterdir())) == 1
    await running.append(b"x")
    assert await running.commit() is True
    assert await read(storage, digest) == data
