"""Names that were found a moment ago: for how long they are, and that storage means it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.store import DigestCodec
from federation.storage.existence_cache import ExistenceCache
from federation.storage.storage import Storage
from tests.storage.conftest import put, short

pytestmark = pytest.mark.slow

Opener = Callable[..., Awaitable[Storage]]
GRANULARITY_MS = 1000


class World:
    """An epoch, and a memory in it."""

    def __init__(self, names_max: int = 100) -> None:
        self.epoch = 1
        self.known = ExistenceCache(lambda: self.epoch, GRANULARITY_MS, names_max)
        self.lists: dict[bytes, tuple[bytes, ...]] = {}  # the same object each time

    def remember(self, *names: bytes, at_ms: int, took_ms: int = 0) -> None:
        self.known.remember(names, at_ms - took_ms, at_ms, self.epoch)

    def knows(self, name: bytes, at_ms: int) -> bool:
        is_known = not self.known.unknown([name], at_ms)
        for things in ([name], self.lists.setdefault(name, (name, name))):
            assert self.knows_all(things, at_ms) == is_known
        return is_known

    def knows_all(self, names: Sequence[bytes], at_ms: int) -> bool:
        return self.known.knows(names, lambda name: name, at_ms)


def test_what_was_found_is_known_for_a_quarter_and_not_for_half_of_the_granularity() -> None:
    for begins_ms in range(0, 600, 7):
        world = World()
        world.remember(b"other", at_ms=0)
        world.remember(b"a", at_ms=begins_ms)
        assert world.knows(b"a", begins_ms + GRANULARITY_MS // 4 - 1)
        assert not world.knows(b"a", begins_ms + GRANULARITY_MS // 2)


def test_names_that_are_asked_for_on_and_on_are_looked_up_again() -> None:
    world = World()
    world.remember(b"a", at_ms=0)
    assert not all(world.knows(b"a", at_ms) for at_ms in range(0, 600, 10))


def test_all_is_forgotten_when_the_epoch_moves() -> None:
    world = World()
    world.remember(b"a", at_ms=0)
    world.epoch += 1
    assert not world.knows(b"a", 1)


def test_what_was_found_in_an_earlier_epoch_is_not_taken() -> None:
    world = World()
    world.known.remember([b"a"], 0, 0, world.epoch - 1)
    assert not world.knows(b"a", 1)


def test_what_a_slow_look_up_found_is_not_taken() -> None:
    world = World()
    world.remember(b"a", at_ms=GRANULARITY_MS, took_ms=GRANULARITY_MS // 2 + 1)
    assert not world.knows(b"a", GRANULARITY_MS)


def test_it_is_bounded() -> None:
    world = World(names_max=100)
    for number in range(1000):
        world.remember(b"%d" % number, at_ms=0)
    assert len(world.known.unknown([b"%d" % number for number in range(1000)], 0)) >= 900
    assert world.knows(b"999", 0)


def test_a_list_is_known_if_each_of_its_names_is_of_whichever_generation() -> None:
    world = World()
    world.remember(b"a", b"b", at_ms=0)
    world.remember(b"c", at_ms=GRANULARITY_MS // 4)
    assert world.knows_all([b"a", b"b", b"c"], GRANULARITY_MS // 4)
    assert not world.knows_all([b"a", b"d", b"c"], GRANULARITY_MS // 4)


def test_a_list_that_may_change_is_looked_at_each_time() -> None:
    world = World()
    world.remember(b"a", b"b", at_ms=0)
    names = [b"a", b"b"]
    assert world.knows_all(names, 0)
    names.append(b"c")
    assert not world.knows_all(names, 0)


def test_lists_that_are_known_are_bounded() -> None:
    world = World()
    world.remember(b"a", at_ms=0)
    lists = [(b"a",) * 1000 for _ in range(100)]
    assert all(world.knows_all(names, 0) for names in lists)
    assert repr(world.known) == "<ExistenceCache 1 names, lists of 10000>"


def name_of(digest: Digest) -> bytes:
    return digest.hash + digest.size_bytes.to_bytes(8, "big")


class Counting:
    """How names are spelt here, and for which of them a look-up asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    @property
    def spelling(self) -> DigestCodec:
        def hashes_of(names: object) -> list[bytes]:
            self.asked += list(names)  # type: ignore[call-overload]
            return [name[:32] for name in names]  # type: ignore[attr-defined]

        return DigestCodec(hashes_of, lambda name: int.from_bytes(name[32:], "big"))

    async def find(self, storage: Storage, *digests: Digest) -> set[bytes]:
        self.asked.clear()
        return await storage.find_missing_named([name_of(d) for d in digests], self.spelling)


async def test_what_is_in_the_catalogue_is_looked_up_once_and_what_is_absent_each_time(
    open_storage: Opener,
) -> None:
    storage, counting = await open_storage(short(lease=60.0)), Counting()
    held, absent = await put(storage, b"held"), digest_of(b"absent")
    assert await counting.find(storage, held, absent) == {name_of(absent)}
    assert await counting.find(storage, held, absent) == {name_of(absent)}
    assert counting.asked == [name_of(absent)]
    await put(storage, b"absent")
    assert await counting.find(storage, held, absent) == set()


async def test_the_right_hash_with_another_size_is_missing(open_storage: Opener) -> None:
    storage, counting = await open_storage(short(lease=60.0)), Counting()
    held = await put(storage, b"held")
    other = held._replace(size_bytes=5)
    for _ in range(2):
        assert await counting.find(storage, held, other) == {name_of(other)}


async def test_a_file_is_looked_at_once_while_files_are_watched(open_storage: Opener) -> None:
    storage, counting = await open_storage(short(lease=60.0)), Counting()
    digest = await put(storage, os.urandom(100_000))
    for asked in ([name_of(digest)], []):
        assert await counting.find(storage, digest) == set()
        assert counting.asked == asked
    storage.core.files.close()
    for _ in range(2):
        assert await counting.find(storage, digest) == set()
        assert counting.asked == [name_of(digest)]
    storage.core.files.start()
    assert await counting.find(storage, digest) == set()
    storage.core.directory.volume._away = "another volume is mounted over it"
    for _ in range(2):
        assert await counting.find(storage, digest) == set()
        assert counting.asked == [name_of(digest)]


async def test_a_file_that_vanishes_during_a_look_up_is_missed_at_the_next(
    open_storage: Opener,
) -> None:
    storage, counting = await open_storage(short(lease=60.0)), Counting()
    digest = await put(storage, os.urandom(100_000))
    check = storage._presence._core.directory.volume.check_file

    def check_and_lose(path: str, size_bytes: int) -> None:
        check(path, size_bytes)
        Path(path).unlink()

    storage.core.directory.volume.check_file = check_and_lose  # type: ignore[method-assign]
    storage.core.resident.close()  # so that a thread looks, with the check above
    assert await counting.find(storage, digest) == set()
    storage.core.directory.volume.check_file = check  # type: ignore[method-assign]
    assert await counting.find(storage, digest) == {name_of(digest)}


async def test_a_file_that_vanishes_is_missed_at_once(open_storage: Opener) -> None:
    storage, counting = await open_storage(short(lease=60.0)), Counting()
    digest = await put(storage, os.urandom(100_000))
    assert await counting.find(storage, digest) == set()
    os.unlink(storage.core.directory.blob_path(digest))  # noqa: PTH108 - no Path on the loop
    assert await counting.find(storage, digest) == {name_of(digest)}


async def test_what_is_evicted_is_missed_at_once(open_storage: Opener) -> None:
    storage, counting = await open_storage(short(lease=2.0)), Counting()
    digests = [await put(storage, os.urandom(10_000)) for _ in range(20)]
    assert await counting.find(storage, *digests) == set()
    await asyncio.sleep(3.8)  # unused for longer than a lease
    assert await storage.maintenance.evict(0) > 0
    assert await counting.find(storage, *digests) == {name_of(digest) for digest in digests}


async def test_its_answers_are_leases(open_storage: Opener) -> None:
    # Answered from memory for three leases on end, while everything that is not leased goes.
    storage, counting = await open_storage(short(lease=1.0)), Counting()
    digest = await put(storage, b"in use")
    loop = asyncio.get_running_loop()
    answers = late = 0
    asked_s = loop.time()
    until_s = asked_s + 3.0
    while loop.time() < until_s:
        missing = await counting.find(storage, digest)
        before_s, asked_s = asked_s, loop.time()
        if asked_s - before_s > 0.4:  # the machine is busy: no lease may be given, or one ended
            late += 1
            await put(storage, b"in use")
        else:
            assert missing == set()
            answers += 1
        await storage.maintenance.evict(0)
        await asyncio.sleep(0.01)
    assert answers, late
