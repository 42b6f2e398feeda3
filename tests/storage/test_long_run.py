"""What must stay true over many writes, reads and evictions: counts, bounds, and who is kept."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from federation.core.digest import Digest, digest_of
from federation.storage.storage import Storage
from tests.storage.conftest import MIB, opened, put, read, short, until
from tests.support.samples import sample_value

pytestmark = pytest.mark.slow

Opener = Callable[..., Awaitable[Storage]]


def _sums(storage: Storage) -> tuple[tuple[object, ...], tuple[object, ...], int]:
    """The totals, what the rows sum up to, and the bytes of the blob files."""
    connection = apsw.Connection(str(storage.core.directory.catalogue))
    try:
        totals = connection.execute("SELECT bytes, blobs FROM totals").fetchall()[0]
        rows = connection.execute("SELECT ifnull(sum(size), 0), count(*) FROM blob").fetchall()[0]
        (files,) = connection.execute(
            "SELECT ifnull(sum(size), 0) FROM blob WHERE NOT inline"
        ).fetchall()[0]
    finally:
        connection.close()
    on_disk = sum(file.stat().st_size for file in storage.core.directory.blob_files())
    return totals, rows, on_disk - int(str(files))


async def test_s23_readers_slower_than_the_lease_finish_under_eviction(
    open_storage: Opener,
) -> None:
    storage = await open_storage(short(quota=64 * MIB, lease=0.3))
    data = os.urandom(2 * MIB)
    digest = await put(storage, data)
    all_read = asyncio.Barrier(50)

    async def read_slowly() -> bytes:
        got = b""
        async with storage.open_read(digest, next_bytes=lambda: 128 * 1024) as chunks:
            await all_read.wait()  # nothing is evicted before
            async for chunk in chunks:
                got += chunk
                await storage.maintenance.evict(0)
                await asyncio.sleep(0.05)
        return got

    assert set(await asyncio.gather(*(read_slowly() for _ in range(50)))) == {data}

    async def gone() -> bool:
        await storage.maintenance.evict(0)
        return storage.core.space.stored_bytes == 0

    await until(gone)


async def test_s26_after_random_puts_and_evictions_all_counts_agree(tmp_path: Path) -> None:
    chance = random.Random(26)
    for _ in range(3):  # reopened in between
        async with opened(tmp_path / "data", short(lease=0.1)) as storage:
            held: list[Digest] = []
            for _ in range(150):
                if held and chance.random() < 0.2:
                    await storage.maintenance.evict(
                        chance.randrange(storage.core.space.stored_bytes + 1)
                    )
                size = chance.choice([10, 5000, 80_000, 200_000])
                held.append(await put(storage, chance.randbytes(size)))
            await until(lambda: _nothing_pending(storage))
            totals, rows, stray_bytes = _sums(storage)
            assert totals == rows
            assert stray_bytes == 0


async def _nothing_pending(storage: Storage) -> bool:
    return not storage.maintenance.eviction_pending


async def test_s27_a_quota_ten_times_lower_is_reached_and_leased_blobs_stay(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "data", short(quota=40 * MIB)) as storage:
        blobs = [await put(storage, os.urandom(100_000)) for _ in range(200)]
    async with opened(tmp_path / "data", short(quota=4 * MIB, lease=2.0)) as storage:
        kept = blobs[-5:]

        async def fits() -> bool:
            # None is given while one waits for half its time to be written, on a busy machine.
            withheld = _withheld(storage)
            missing = await storage.find_missing(kept)
            assert len(missing) == _withheld(storage) - withheld
            return storage.core.space.stored_bytes <= 4 * MIB

        await until(fits)
        assert [len(await read(storage, digest)) for digest in kept] == [100_000] * 5


async def test_s28_reading_again_and_again_writes_nothing_each_time(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600.0))
    digests = [await put(storage, os.urandom(size)) for size in (1000, 100_000)]
    await storage.flusher.flush()
    before = _commits(storage)
    for _ in range(200):
        for digest in digests:
            await read(storage, digest)
        assert await storage.find_missing(digests) == set()
    await storage.flusher.flush()
    assert _commits(storage) - before <= 5


def _commits(storage: Storage) -> float:
    return _counted(storage, "federation_commit_seconds_count")


def _withheld(storage: Storage) -> float:
    return _counted(storage, "federation_leases_withheld_total")


def _counted(storage: Storage, name: str) -> float:
    value = sample_value(storage.core.metrics, name)
    assert value is not None
    return value


async def test_s31_the_wal_stays_bounded_under_writes_and_readers(open_storage: Opener) -> None:
    storage = await open_storage()
    largest = 0
    wanted: list[Digest] = []
    for number in range(40):
        data = [number.to_bytes(4, "big") + os.urandom(1020) for _ in range(1000)]
        blobs = [(digest_of(blob), blob) for blob in data]
        _, found = await asyncio.gather(storage.write_small(blobs), storage.read_small(wanted))
        assert None not in found
        wanted = [digest for digest, _ in blobs]
        largest = max(largest, _wal_bytes(storage))
    assert largest < 64 * MIB


def _wal_bytes(storage: Storage) -> int:
    return Path(f"{storage.core.directory.catalogue}-wal").stat().st_size


async def test_s36_a_backup_taken_under_load_serves_what_was_held_when_it_began(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "data", short()) as storage:
        held = {await put(storage, data): data for data in (os.urandom(1000), os.urandom(90_000))}
        load = asyncio.ensure_future(_keep_writing(storage))
        await asyncio.to_thread(_back_up, tmp_path / "data", tmp_path / "copy")
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    async with opened(tmp_path / "copy", short()) as copy:
        for digest, data in held.items():
            assert await read(copy, digest) == data
        totals, rows, _ = _sums(copy)
        assert totals == rows


async def _keep_writing(storage: Storage) -> None:
    while True:
        await put(storage, os.urandom(80_000))
        await put(storage, os.urandom(500))


def _back_up(source: Path, target: Path) -> None:
    """As docs/operations.md says: the catalogue by SQLite's backup, then the blob files."""
    target.mkdir()
    old = apsw.Connection(str(source / "catalogue.sqlite"))
    new = apsw.Connection(str(target / "catalogue.sqlite"))
    with new.backup("main", old, "main") as backup:
        backup.step(-1)
    new.close()
    old.close()
    shutil.copytree(source / "blobs", target / "blobs")
