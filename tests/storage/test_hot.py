"""Small blobs remembered in memory: what is kept, what is forgotten, and that leases go on."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest

from federation.core.digest import Digest, digest_of
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.read_cache import CachedBlob, ReadCache
from federation.storage.storage import Storage
from tests.storage.conftest import MIB, WIDE, put, read, short, until
from tests.support.samples import sample_value

pytestmark = pytest.mark.slow

Opener = Callable[..., Awaitable[Storage]]


class Count:
    """An epoch."""

    def __init__(self) -> None:
        self.value = 1

    def __call__(self) -> int:
        return self.value


@pytest.fixture
def epoch() -> Count:
    return Count()


def blob(number: int, size: int = 1000) -> tuple[Digest, CachedBlob]:
    data = b"%d" % number * size
    return digest_of(data), CachedBlob(data[:size], 5)


def keep(hot: ReadCache, *blobs: tuple[Digest, CachedBlob]) -> None:
    """Have them kept: they are read twice."""
    hot.keep(blobs, hot.epoch)
    hot.keep(blobs, hot.epoch)


def held(hot: ReadCache, *digests: Digest) -> list[bool]:
    return [one is not None for one in hot.look_up(digests)]


def test_what_was_kept_is_found_until_the_epoch_moves(epoch: Count) -> None:
    hot = ReadCache(epoch)
    (a, kept), (b, other) = blob(1), blob(2)
    keep(hot, (a, kept))
    assert hot.look_up([b, a]) == [None, kept]
    epoch.value += 1
    assert hot.look_up([a]) == [None]
    assert hot.size_bytes == 0
    keep(hot, (b, other))
    assert hot.look_up([a, b]) == [None, other]


def test_what_was_read_before_the_epoch_moved_is_not_kept(epoch: Count) -> None:
    hot = ReadCache(epoch)
    before = hot.epoch
    epoch.value += 1
    hot.keep([blob(1)], before)
    hot.keep([blob(1)], before)
    assert held(hot, blob(1)[0]) == [False]


def test_memory_is_bounded_and_the_least_recently_used_go_first(epoch: Count) -> None:
    hot = ReadCache(epoch, room_bytes=100_000)
    blobs = [blob(number) for number in range(200)]
    first = blobs[0][0]
    for each in blobs:
        keep(hot, each)
        assert held(hot, first) == [True]  # it is used all the time
        assert hot.size_bytes <= 100_000
    shown = held(hot, *(digest for digest, _ in blobs))
    assert 60 < sum(shown) < 100
    assert all(shown[-60:])


def test_keeping_one_again_counts_it_once(epoch: Count) -> None:
    hot = ReadCache(epoch)
    keep(hot, blob(1))
    size_bytes = hot.size_bytes
    keep(hot, blob(1))
    assert hot.size_bytes == size_bytes > 0


def test_what_is_read_once_pushes_out_nothing(epoch: Count) -> None:
    hot = ReadCache(epoch, room_bytes=100_000)
    keep(hot, blob(1))
    hot.keep((blob(number) for number in range(2, 30_000)), epoch())
    assert held(hot, blob(1)[0]) == [True]
    assert len(hot._once) <= 20_000


def test_a_large_blob_does_not_push_out_the_others(epoch: Count) -> None:
    hot = ReadCache(epoch, room_bytes=100_000)
    keep(hot, blob(1), blob(2, size=10_000))
    assert held(hot, blob(1)[0], blob(2, size=10_000)[0]) == [True, False]


def test_a_lease_is_noted(epoch: Count) -> None:
    hot = ReadCache(epoch)
    digest, kept = blob(1)
    keep(hot, (digest, kept))
    hot.touched([digest, blob(2)[0]], 9)
    assert hot.look_up([digest]) == [kept._replace(used_ms=9)]


async def read_twice(storage: Storage, *digests: Digest) -> list[bytes | None]:
    await storage.read_small(digests)
    return await storage.read_small(digests)


async def test_a_blob_read_twice_comes_from_memory_by_either_way(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=60.0))
    digests = [await put(storage, os.urandom(1000)) for _ in range(3)]
    data = await read_twice(storage, *digests)
    streamed = await put(storage, b"streamed")
    for _ in range(2):
        assert await read(storage, streamed) == b"streamed"
    known = storage.core.read_cache.look_up([*digests, streamed])
    assert [one and one.data for one in known] == [*data, b"streamed"]
    with_others = [streamed, digest_of(b"nobody has it"), *digests]
    assert await storage.read_small(with_others) == [b"streamed", None, *data]
    assert await read(storage, digests[0]) == data[0]


async def test_a_blob_in_a_file_is_not_kept_in_memory(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=60.0))
    digest = await put(storage, os.urandom(100_000))
    assert await read_twice(storage, digest) != [None]
    assert storage.core.read_cache.look_up([digest]) == [None]


@pytest.mark.parametrize("way", ["batch", "stream"])
async def test_p5_what_is_only_read_from_memory_stays_leased(
    open_storage: Opener, way: str
) -> None:
    storage = await open_storage(short(quota=2 * MIB, **WIDE))
    used, unused = await put(storage, b"used" * 50), await put(storage, b"unused" * 50)
    await read_twice(storage, used)
    since_ms = storage.core.now_ms()

    def is_marked() -> bool:
        key = catalogue.key_of(used)
        row = catalogue.look_up(storage.core.pool.connection(), [key])[key]
        return bool(row.marked_ms)

    async def gone() -> bool:
        assert not await storage.core.pool.run(is_marked)
        if way == "batch":
            assert await storage.read_small([used]) == [b"used" * 50]
        else:
            assert await read(storage, used) == b"used" * 50
        return await evicted(storage, 15)

    await until(gone)
    assert storage.core.now_ms() - since_ms > storage.core.timing.cutoff_age_ms
    assert await storage.find_missing([used, unused]) == {unused}


async def evicted(storage: Storage, count: int) -> bool:
    """Write some more; return whether so many have been evicted. Asking for one would lease it."""
    more = os.urandom(200_000)
    await storage.write_small([(digest_of(more), more)])
    value = sample_value(storage.core.metrics, "federation_evicted_total")
    assert value is not None
    return value >= count


async def is_holder(storage: Storage) -> bool:
    return storage.maintenance.is_holder


async def test_what_another_process_evicts_is_forgotten_here(open_storage: Opener) -> None:
    here = await open_storage(short(quota=2 * MIB, **WIDE))
    await until(lambda: is_holder(here))  # the second one might be the first to evict
    there = await open_storage(short(quota=2 * MIB, **WIDE))
    digest = await put(here, b"small" * 50)
    assert await read_twice(there, digest) == [b"small" * 50]
    assert held(there.core.read_cache, digest) == [True]
    await until(lambda: evicted(here, 15))
    assert await here.find_missing([digest]) == {digest}
    assert await there.read_small([digest]) == [None]


async def test_a_blob_set_aside_is_forgotten(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=60.0))
    digest = await put(storage, b"small")
    await read_twice(storage, digest)
    assert held(storage.core.read_cache, digest) == [True]
    await storage.core.set_aside(digest, storage.core.head.value, Damage("somebody said so"))
    assert await storage.read_small([digest]) == [None]
