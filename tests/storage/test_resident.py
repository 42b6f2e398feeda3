"""Look-ups on the event loop: they never wait, and a thread does what they cannot."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from federation.core.clock import ManualClock
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound
from federation.core.index import Entry, EntryKey, EntryKind
from federation.storage import resident_files
from federation.storage.catalogue import resident
from federation.storage.catalogue.blobs import present
from federation.storage.catalogue.resident import ResidentCatalogue
from federation.storage.catalogue.schema import connect
from federation.storage.storage import Storage
from tests.storage.conftest import MIB, put, read

pytestmark = pytest.mark.disk  # a file system in memory does not say what it holds

Opener = Callable[..., Awaitable[Storage]]
ABSENT = digest_of(b"held nowhere")


@pytest.fixture
async def storage(open_storage: Opener) -> Storage:
    return await open_storage()


@contextmanager
def without_threads(storage: Storage) -> Iterator[None]:
    """Let every hop of this task to a thread fail, and no look-up count as slow."""
    with pytest.MonkeyPatch.context() as patch, with_threads(storage, allowed=False):
        patch.setattr(resident, "_SLOW_S", float("inf"))
        patch.setattr(resident, "_TURN_S", float("inf"))
        yield


@contextmanager
def with_threads(storage: Storage, *, allowed: bool = True) -> Iterator[list[str]]:
    """Note what this task asks threads for; the storage's own upkeep asks them, too."""
    asked: list[str] = []
    mine = asyncio.current_task()
    with pytest.MonkeyPatch.context() as patch:
        for pool, name in ((storage.core.pool, "query"), (storage.core.reads, "run_or_undo")):
            real = getattr(pool, name)

            async def note(*args: Any, real: Any = real, name: str = name) -> Any:
                if asyncio.current_task() is mine:
                    assert allowed, "a thread was asked"
                    asked.append(name)
                return await real(*args)

            patch.setattr(pool, name, note)
        yield asked


@contextmanager
def forgotten(part: bool = False) -> Iterator[None]:
    """Let the page cache hold nothing, or only the first bytes of what is asked for."""
    real = os.preadv

    def nothing(fd: int, rooms: Sequence[Any], offset: int, flags: int = 0) -> int:
        if not part:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return min(100, real(fd, rooms, offset, flags))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", nothing)
        yield


def entry(value: bytes) -> Entry:
    return Entry(EntryKey(EntryKind.ASSET_BLOB, "", b"n" * 32), value, "a name")


async def test_few_blobs_and_entries_are_looked_up_without_a_thread(storage: Storage) -> None:
    small, large = await put(storage, b"small"), await put(storage, bytes(MIB))
    await storage.put([entry(b"value")])
    with without_threads(storage):
        assert await storage.find_missing([small, large, ABSENT]) == {ABSENT}
        (found,) = await storage.get([entry(b"").key])
        assert await storage.get([entry(b"").key._replace(instance="other")]) == [None]
    assert found is not None
    assert found.value == b"value"


async def test_that_there_is_no_entry_is_known_at_once_and_only_then(storage: Storage) -> None:
    held = entry(b"value")
    await storage.put([held])
    others = [
        held.key._replace(instance="other"),
        held.key._replace(kind=EntryKind.ASSET_DIRECTORY),
        held.key._replace(name=b"m" * 32),
    ]
    with without_threads(storage):
        assert storage.lacks_at_once(others)
        for at in range(len(others) + 1):
            assert not storage.lacks_at_once([*others[:at], held.key, *others[at:]])
        await storage.get([held.key])  # from now on it is in memory
        assert not storage.lacks_at_once([held.key])
        assert not storage.lacks_at_once([others[0]] * 100)  # too many for the event loop
    storage.core.resident.close()
    assert not storage.lacks_at_once(others)


async def test_reads_of_small_blobs_in_memory_need_no_thread(storage: Storage) -> None:
    small = await put(storage, b"small")
    with without_threads(storage):
        assert await read(storage, small) == b"small"
        with pytest.raises(BlobNotFound):
            await read(storage, ABSENT)


@pytest.mark.parametrize("part", [False, True])
async def test_a_thread_reads_what_memory_does_not_hold(storage: Storage, part: bool) -> None:
    small, large = await put(storage, b"small"), await put(storage, bytes(MIB))
    await storage.put([entry(b"value")])
    with forgotten(part), with_threads(storage) as asked:
        assert await storage.find_missing([small, ABSENT]) == {ABSENT}
        assert await storage.get([entry(b"").key]) != [None]
        assert await read(storage, large) == bytes(MIB)
        assert await read(storage, small) == b"small"
    assert asked == ["query", "query", "run_or_undo", "run_or_undo"]


async def test_a_thread_looks_for_files_whose_names_are_not_in_memory(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = await put(storage, bytes(MIB))

    def nothing(*_args: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(resident_files, "_open", nothing)
    with with_threads(storage) as asked:
        assert await storage.find_missing([large]) == set()
        assert await read(storage, large) == bytes(MIB)
    assert asked == ["query", "run_or_undo"]


async def test_a_thread_judges_a_file_that_is_not_plainly_right(storage: Storage) -> None:
    gone, short, linked = [await put(storage, os.urandom(MIB)) for _ in range(3)]

    def path(digest: Digest) -> Path:
        return Path(storage.core.directory.blob_path(digest))

    path(gone).unlink()
    os.truncate(path(short), 5)
    path(linked).rename(path(linked).with_suffix(".moved"))
    path(linked).symlink_to(path(linked).with_suffix(".moved"))
    with with_threads(storage) as asked:
        assert await storage.find_missing([gone, short, linked]) == {gone, short, linked}
    assert asked == ["query"]


async def test_a_thread_reads_a_large_entry_and_long_lists(storage: Storage) -> None:
    await storage.put([entry(bytes(2**14 + 1))])
    digests = [digest_of(bytes((number,))) for number in range(17)]
    with with_threads(storage) as asked:
        assert await storage.get([entry(b"").key]) != [None]
        assert await storage.find_missing(digests) == set(digests)
    assert asked == ["query", "query"]


async def test_what_a_look_up_finds_is_leased(storage: Storage) -> None:
    old = await put(storage, b"old")
    with without_threads(storage):
        renewed = storage.core.now_ms() + 10 * storage.core.timing.lease_ms
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage.core.store_clock, "now_ms", lambda: renewed)
            assert await storage.find_missing([old]) == set()
    assert storage.core.touches.take().blobs == {b"\x01" + old.hash: renewed}
    storage.core.touches.failed()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def lookups(storage: Storage, clock: ManualClock) -> AsyncIterator[ResidentCatalogue]:
    made = ResidentCatalogue(storage.core.directory.catalogue, clock)
    made.open()
    yield made
    made.close()
    made.release()


def ask(connection: apsw.Connection) -> bool:
    present(connection, [b"\x01" * 33], 0)
    return True


async def test_slow_look_ups_are_followed_by_a_pause(
    lookups: ResidentCatalogue, clock: ManualClock
) -> None:
    def slow(_connection: apsw.Connection) -> bool:
        clock.advance(0.1)
        return True

    for work in (slow, ask, slow):
        assert lookups.look(work)
        await pause()
    assert lookups.look(slow)
    await pause()
    assert lookups.look(ask) is None
    clock.advance(10.1)
    assert lookups.look(ask)


async def test_look_ups_leave_time_in_each_turn_of_the_loop(
    lookups: ResidentCatalogue, clock: ManualClock
) -> None:
    def short(_connection: apsw.Connection) -> bool:
        clock.advance(0.006)
        return True

    assert [lookups.look(short) for _ in range(3)] == [True, True, None]
    await pause()
    assert lookups.look(short)


async def pause() -> None:
    """Let the loop have its next turn."""
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn


async def test_an_unreadable_catalogue_is_left_to_a_thread(lookups: ResidentCatalogue) -> None:
    def fail(connection: apsw.Connection) -> bool:
        connection.execute("SELECT nothing FROM nowhere")
        return True

    assert lookups.look(fail) is None
    assert lookups.look(ask)


async def test_what_others_commit_is_found(lookups: ResidentCatalogue, storage: Storage) -> None:
    def find(connection: apsw.Connection) -> tuple[dict[bytes, int], set[bytes]]:
        return present(connection, [b"\x01" + digest_of(b"new").hash], 0)

    assert lookups.look(find) == ({}, set())
    await put(storage, b"new")
    found = lookups.look(find)
    assert found is not None
    assert found[0]


async def test_closing_the_connection_drops_no_lock_of_others(
    storage: Storage, clock: ManualClock
) -> None:
    """Closing a descriptor of a file drops all locks that the process has on it (fcntl)."""
    path = storage.core.directory.catalogue
    one = ResidentCatalogue(path, clock)
    other = connect(path)
    try:
        other.execute("BEGIN IMMEDIATE")
        one.open()
        assert one.look(ask)
        before = locks_on(path)
        one.close()
        assert locks_on(path)
        assert len(locks_on(path)) == len(before)
    finally:
        other.close()
        one.release()


def locks_on(path: Path) -> list[str]:
    inode = f":{path.stat().st_ino} "
    pid = f" {os.getpid()} "
    lines = Path("/proc/locks").read_text().splitlines()
    return [line for line in lines if inode in line and pid in line]
