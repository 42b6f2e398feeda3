"""Eviction against leases, in one process and between two on one directory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from federation.core.errors import BlobNotFound, StorageFull
from federation.core.index import Entry, EntryKey, EntryKind
from federation.storage.processes import live_runs
from federation.storage.storage import Storage
from tests.storage.conftest import MIB, WIDE, fresh, opened, put, read, short, until
from tests.support.samples import sample_value

pytestmark = pytest.mark.slow

Opener = Callable[..., Awaitable[Storage]]


async def test_the_least_recently_used_go_and_the_used_stay(open_storage: Opener) -> None:
    storage = await open_storage(short(quota=2 * MIB, **WIDE))
    old = [await put(storage, os.urandom(100_000)) for _ in range(10)]
    small = [await put(storage, os.urandom(1000)) for _ in range(10)]
    used = old[0]

    async def evicted() -> bool:
        await storage.write_small([fresh(200_000)])
        assert await read(storage, used)
        return _evicted(storage) >= 19  # nothing but the used one is older than the fresh ones

    await until(evicted)
    assert await storage.find_missing([*old, *small]) == {*old[1:], *small}
    assert storage.core.space.stored_bytes <= 2 * MIB


def _evicted(storage: Storage) -> float:
    value = sample_value(storage.core.metrics, "federation_evicted_total")
    assert value is not None
    return value


def _withheld(storage: Storage) -> float:
    name = "federation_leases_withheld_total"
    value = sample_value(storage.core.metrics, name)
    assert value is not None
    return value


async def test_p5_what_find_missing_promised_is_readable_within_the_lease(
    open_storage: Opener,
) -> None:
    storage = await open_storage(short(quota=MIB, lease=2.0))
    wanted = [await put(storage, os.urandom(80_000)) for _ in range(10)]
    loop, reads = asyncio.get_running_loop(), 0
    for _ in range(3):
        ends_s = loop.time() + 2.0
        present = set(wanted) - await storage.find_missing(wanted)
        while loop.time() < ends_s:
            await storage.write_small([fresh(90_000)])
            for digest in present:
                try:
                    assert len(await read(storage, digest)) == 80_000
                    reads += 1
                except BlobNotFound:
                    assert loop.time() >= ends_s
    assert reads > len(wanted)


async def test_a_full_store_of_leased_blobs_refuses_writes_and_names(open_storage: Opener) -> None:
    storage = await open_storage(short(quota=MIB, lease=60.0))
    held = [await put(storage, os.urandom(180_000)) for _ in range(5)]
    (refused,) = await storage.write_small([fresh(200_000)])
    assert isinstance(refused, StorageFull)
    assert await storage.find_missing(held) == set()
    key = EntryKey(EntryKind.ASSET_BLOB, "", b"k" * 32)
    try:
        await storage.put([Entry(key, b"v", "uri")])
    except StorageFull:
        return
    raise AssertionError("a name was taken for blobs that were refused")


async def test_two_processes_see_each_other_s_writes_and_agree_after_eviction(
    open_storage: Opener,
) -> None:
    first = await open_storage(short(quota=2 * MIB))
    second = await open_storage(short(quota=2 * MIB))
    digest = await put(first, os.urandom(100_000))
    assert await second.find_missing([digest]) == set()
    epoch = second.core.epoch.value

    async def gone() -> bool:
        await second.write_small([fresh(200_000)])
        return second.core.epoch.value != epoch

    await until(gone)
    assert first.core.epoch.value == second.core.epoch.value
    holders = [storage.maintenance.is_holder for storage in (first, second)]
    assert holders.count(True) == 1


async def test_a_lease_given_by_one_process_is_kept_by_the_other(open_storage: Opener) -> None:
    evicting = await open_storage(short(quota=2 * MIB))
    await until(lambda: _true(evicting.maintenance.is_holder))
    other = await open_storage(short(quota=2 * MIB))
    digest = await put(other, os.urandom(100_000))
    for at in range(3000):
        if at >= 60 and _evicted(evicting) > 0:
            break
        withheld = _withheld(other)
        missing = await other.find_missing([digest])
        # None is given while one waits for half its time to be written, on a busy machine.
        assert len(missing) == _withheld(other) - withheld
        await evicting.write_small([fresh(100_000)])
        assert len(await read(other, digest)) == 100_000
        await asyncio.sleep(0.02)
    assert _evicted(evicting) > 0


async def _true(value: bool) -> bool:
    return value


async def test_p5_after_a_killed_process_nothing_is_evicted_for_a_lease(tmp_path: Path) -> None:
    path = tmp_path / "data"
    settings = short(quota=MIB, lease=3.0)
    async with opened(path, settings) as storage:
        await put(storage, os.urandom(1000))
        run = storage.core.run
        (storage.core.directory.run / f"{run.id}.lock").unlink()
        trace = storage.core.directory.run / "deadbeef.lock"
    trace.touch()  # not before: the first node would find it, and hold by itself
    async with opened(path, settings) as storage:
        assert [run["id"] for run in live_runs(storage.core.directory)] == [storage.core.run.id]
        assert await storage.maintenance.evict(0) == 0
        assert "died" in storage.maintenance.held_back

        async def evicts() -> bool:
            return await storage.maintenance.evict(0) > 0

        await until(evicts)


async def test_p5_a_killed_process_is_remembered_until_the_pause_is_durable(
    open_storage: Opener,
) -> None:
    storage = await open_storage(short(quota=MIB, lease=60.0))
    trace = storage.core.directory.run / "deadbeef.lock"
    submit = storage.core.writer.submit

    async def refuse(*_: object) -> object:
        raise StorageFull("no room")

    # Nothing is found while the node's own maintenance looks at the same moment.
    async def is_refused() -> bool:
        try:
            await storage.maintenance._remove_dead()
        except StorageFull:
            return True
        return False

    async def is_removed() -> bool:
        await storage.maintenance._remove_dead()
        return not trace.exists()

    storage.core.writer.submit = refuse  # type: ignore[method-assign,assignment]
    trace.touch()
    await until(is_refused)
    assert trace.exists()
    storage.core.writer.submit = submit  # type: ignore[method-assign]
    await until(is_removed)
    assert await storage.maintenance.evict(0) == 0
    assert "died" in storage.maintenance.held_back


async def test_entries_are_evicted_with_the_rest_and_count_as_bytes(open_storage: Opener) -> None:
    storage = await open_storage(short(quota=MIB))
    keys = [EntryKey(EntryKind.ACTION_RESULT, "i", bytes([n]) * 32) for n in range(8)]
    for key in keys:
        await storage.put([Entry(key, os.urandom(100_000), "label")])

    async def trimmed() -> bool:
        await storage.write_small([fresh(10_000)])
        return _evicted(storage) >= 1

    await until(trimmed)
    assert (await storage.get(keys))[0] is None
    assert storage.core.space.stored_bytes < MIB
