"""A volume that is away, or a disk that gives errors, never makes a good blob damaged."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound, SourceUnavailable, StorageRefused, TooBusy
from federation.core.index import Entry, EntryKey, EntryKind
from federation.storage import blob_files, quarantine, resident_files
from federation.storage.admin.rebuild import rebuild
from federation.storage.blob_files import Damage, Gone, Unreadable
from federation.storage.breaker import DamageBreaker
from federation.storage.catalogue import blobs as catalogue
from federation.storage.quarantine import QuarantineOutcome
from federation.storage.storage import Storage
from federation.storage.upkeep.discarding import Discarder
from federation.storage.upkeep.sweep import Sweeper
from federation.storage.volume import MARKER
from tests.storage.conftest import MIB, opened, put, read, short, until

pytestmark = pytest.mark.slow

Opener = Callable[..., Awaitable[Storage]]
SIZE = 80_000


@contextmanager
def away(storage: Storage) -> Iterator[Path]:
    """What a lazy unmount leaves: an empty folder in place of blobs/."""
    blobs = storage.core.directory.blobs
    elsewhere = blobs.with_name("elsewhere")
    blobs.rename(elsewhere)
    blobs.mkdir()
    try:
        yield elsewhere
    finally:
        shutil.rmtree(blobs)
        elsewhere.rename(blobs)


def path_of(storage: Storage, digest: Digest) -> Path:
    return Path(storage.core.directory.blob_path(digest))


def rows(storage: Storage) -> int:
    connection = apsw.Connection(str(storage.core.directory.catalogue))
    ((count,),) = connection.execute("SELECT count(*) FROM blob").fetchall()
    connection.close()
    assert isinstance(count, int)
    return count


async def test_s17_blobs_on_a_volume_that_is_away_are_neither_missing_nor_removed(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    blobs = {
        digest: data
        for data in (os.urandom(SIZE) for _ in range(60))
        for digest in [digest_of(data)]
    }
    for data in blobs.values():
        await put(storage, data)
    small = await put(storage, b"small")
    with away(storage):
        for digest in blobs:
            with pytest.raises(SourceUnavailable, match="volume-id is not there"):
                await storage.find_missing([digest])
            with pytest.raises(SourceUnavailable, match="volume-id is not there"):
                await read(storage, digest)
            with pytest.raises(SourceUnavailable, match="volume-id is not there"):
                await storage.read_small([digest])
        assert await storage.find_missing([small]) == set()
        assert await read(storage, small) == b"small"
        assert storage.health()[0] is False
        with pytest.raises(SourceUnavailable):
            await storage.maintenance.sweep_all()
    await until_healthy(storage)
    await storage.maintenance.sweep_all()
    assert await storage.find_missing(blobs) == set()
    assert {digest: await read(storage, digest) for digest in blobs} == blobs


async def until_healthy(storage: Storage) -> None:
    async def healthy() -> bool:
        return storage.health()[0]

    await until(healthy)


async def test_a_volume_that_vanishes_is_noticed_though_nobody_asks_and_so_is_its_return(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    with away(storage):

        async def noticed() -> bool:
            return "volume-id is not there" in storage.health()[1]

        await until(noticed)
        data = os.urandom(SIZE)
        (refused,) = await storage.write_small([(digest_of(data), data)])
        assert isinstance(refused, SourceUnavailable)
        (refused,) = await storage.write_small([(digest_of(b"small"), b"small")])
        assert isinstance(refused, SourceUnavailable)
        with pytest.raises(SourceUnavailable):
            storage.begin(digest_of(data))
        entry = Entry(EntryKey(EntryKind.ACTION_RESULT, "", b"name"), b"value", "", 0.0, None)
        with pytest.raises(SourceUnavailable):
            await storage.put([entry])
    await until_healthy(storage)
    await put(storage, data)
    await storage.put([entry])


async def test_what_is_received_is_not_placed_on_another_volume(open_storage: Opener) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    ingest = storage.begin(digest_of(data))
    await ingest.append(data)
    with away(storage):
        for number in range(256):  # as below a mount point that once was a data directory
            (storage.core.directory.blobs / f"{number:02x}").mkdir()
        with pytest.raises(SourceUnavailable):
            await ingest.commit()
    assert storage.health()[0] is False or rows(storage) == 0
    await until_healthy(storage)
    await put(storage, data)
    assert await read(storage, digest_of(data)) == data


async def test_a_copy_of_the_marker_on_another_device_is_not_the_volume(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    digest = await put(storage, os.urandom(SIZE))
    volume = storage.core.directory.volume
    with away(storage) as elsewhere:
        shutil.copy(elsewhere / MARKER, storage.core.directory.blobs / MARKER)
        identity = volume._identity
        assert identity is not None
        volume._identity = (identity[0] + 1, *identity[1:])
        with pytest.raises(SourceUnavailable, match="another volume"):
            await storage.find_missing([digest])
    # Mounted again, some file systems have another device number; the marker is the same file.
    assert await storage.find_missing([digest]) == set()


async def test_a_node_does_not_start_without_its_volume(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        data = os.urandom(SIZE)
        digest = await put(storage, data)
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageRefused, match="Mount the volume"):
        async with opened(tmp_path, short()):
            pytest.fail("opened")
    assert not (tmp_path / "blobs").exists(), "a refused start changed something"
    (tmp_path / "elsewhere").rename(tmp_path / "blobs")
    async with opened(tmp_path, short()) as storage:
        assert await read(storage, digest) == data


@pytest.mark.parametrize("lost", [True, False])
async def test_a_directory_from_before_there_were_markers_gets_one_where_it_looks_right(
    tmp_path: Path, lost: bool
) -> None:
    async with opened(tmp_path, short()) as storage:
        digest = await put(storage, os.urandom(SIZE))
    connection = apsw.Connection(str(tmp_path / "catalogue.sqlite"))
    connection.execute("DELETE FROM meta WHERE name = 'volume_id'")
    connection.close()
    (tmp_path / "blobs" / MARKER).unlink()
    if lost:
        shutil.rmtree(tmp_path / "blobs")
        with pytest.raises(StorageRefused, match="neither is any blob"):
            async with opened(tmp_path, short()):
                pytest.fail("opened")
        return
    async with opened(tmp_path, short()) as storage:
        assert await storage.find_missing([digest]) == set()
        with away(storage), pytest.raises(SourceUnavailable):
            await storage.find_missing([digest])


async def test_rebuild_takes_what_is_there_where_the_volume_is_lost_for_good(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, short()) as storage:
        lost, small = await put(storage, os.urandom(SIZE)), await put(storage, b"small")
    shutil.rmtree(tmp_path / "blobs")
    rebuild(tmp_path, short(), lambda _done, _total: None)
    async with opened(tmp_path, short()) as storage:
        assert await storage.find_missing([lost, small]) == {lost}


async def test_a_file_that_was_away_for_a_moment_only_is_not_gone(open_storage: Opener) -> None:
    """The volume comes back between the look at the file and the look at the marker."""
    storage = await open_storage()
    digest = await put(storage, os.urandom(SIZE))
    volume, path = storage.core.directory.volume, storage.core.directory.blob_path(digest)
    with pytest.raises(SourceUnavailable, match="away a moment ago"):
        volume.confirm(Gone("is gone"), lambda: blob_files.check_file(path, SIZE))
    # And should somebody have reported it all the same, the file is looked for once more.
    await storage.core.set_aside(digest, storage.core.head.value, Gone("is gone"))
    assert await storage.find_missing([digest]) == set()


async def test_a_volume_that_comes_back_during_the_second_look_proves_no_blob_gone(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    digest = await put(storage, os.urandom(SIZE))
    volume, marker = storage.core.directory.volume, storage.core.directory.blobs / MARKER
    hidden = marker.with_name("hidden")
    marker.rename(hidden)

    def look() -> None:
        hidden.rename(marker)
        raise Gone("is gone")

    with pytest.raises(SourceUnavailable, match="volume-id is not there"):
        volume.confirm(Gone("is gone"), look)
    hidden.rename(marker)
    assert await storage.find_missing([digest]) == set()


async def test_a_sweep_of_folders_that_are_away_says_so_as_an_error_of_the_disk(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    directory, sweeper = storage.core.directory, Sweeper(storage.core)
    await put(storage, os.urandom(SIZE))
    directory.incoming.rename(directory.incoming.with_name("elsewhere"))
    with pytest.raises(SourceUnavailable, match="while listing unfinished uploads"):
        await sweeper.incoming()
    (directory.blobs / "00").rename(directory.blobs / "elsewhere")
    with pytest.raises(SourceUnavailable, match="while listing blobs"):
        await sweeper.folder(0)
    directory.incoming.with_name("elsewhere").rename(directory.incoming)
    (directory.blobs / "elsewhere").rename(directory.blobs / "00")


async def test_a_file_is_not_removed_where_the_volume_changed_since_it_was_found_unclaimed(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    await put(storage, b"opens the volume")
    discarder = Discarder(storage.core)
    with away(storage):
        stray = storage.core.directory.blobs / "stray"
        stray.write_bytes(b"not this node's")
        with pytest.raises(SourceUnavailable, match="volume-id is not there"):
            await discarder.discard([(str(stray), b"")])
        assert stray.exists()


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENODEV, errno.ENFILE, errno.EMFILE]
)
@pytest.mark.parametrize("call", ["stat", "open"])
async def test_s14_an_error_of_the_disk_deletes_nothing(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    storage = await open_storage()
    blobs = await asyncio.gather(*(put(storage, os.urandom(SIZE)) for _ in range(150)))
    real = getattr(os, call)

    def failing(path: object, *args: object, **kwargs: object) -> object:
        if isinstance(path, str) and f"{storage.core.directory.blobs}/" in path:
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **kwargs)

    def not_resident(path: str, _how: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        patch.setattr(resident_files, "_open", not_resident)
        asked: list[Awaitable[object]] = [storage.find_missing(blobs)] if call == "stat" else []
        asked += [read(storage, digest) for digest in blobs]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    misses = [answer for answer in answers if isinstance(answer, BlobNotFound | set)]
    assert misses == []
    assert len({type(answer) for answer in answers} & {SourceUnavailable, TooBusy}) > 0
    await until_healthy(storage)
    assert rows(storage) == len(blobs)

    async def all_there() -> bool:  # a busy machine may withhold leases for a moment
        return await storage.find_missing(blobs) == set()

    await until(all_there, 30)
    assert list(storage.core.directory.quarantine.iterdir()) == []


@contextmanager
def unreadable(
    patch: pytest.MonkeyPatch, storage: Storage, digests: list[Digest], *, times: int = 10**9
) -> Iterator[None]:
    """Reading these gives EIO, for so many times: none of it is in the page cache."""
    inodes = {path_of(storage, digest).stat().st_ino for digest in digests}
    real, real_cached, left = os.pread, os.preadv, [times]

    def failing(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino in inodes and left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, size, offset)

    def cached(fd: int, rooms: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        if os.fstat(fd).st_ino in inodes:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real_cached(fd, rooms, offset, flags)

    with patch.context() as context:
        context.setattr(os, "pread", failing)
        context.setattr(os, "preadv", cached)
        yield


async def test_s14_a_read_is_tried_again_through_another_descriptor(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    with unreadable(monkeypatch, storage, [digest], times=1):
        assert await read(storage, digest) == data
    with unreadable(monkeypatch, storage, [digest], times=1):
        assert await storage.read_small([digest]) == [data]
    assert await storage.find_missing([digest]) == set()


async def test_s14_what_cannot_be_read_twice_is_kept_and_comes_back_when_it_can(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    with unreadable(monkeypatch, storage, [digest]):
        with pytest.raises(BlobNotFound):
            await read(storage, digest)
        assert await storage.find_missing([digest]) == {digest}
        storage.volume_watch.recheck_unread_now()
        await storage.volume_watch.poll()
        assert await storage.find_missing([digest]) == {digest}
    storage.volume_watch.recheck_unread_now()
    await storage.volume_watch.poll()
    assert await read(storage, digest) == data
    assert list(storage.core.directory.quarantine.iterdir()) == []


async def test_more_that_cannot_be_read_than_a_disk_loses_at_once_stops_the_node_until_it_can(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage()
    blobs = [await put(storage, os.urandom(SIZE)) for _ in range(60)]
    outcomes = []
    with unreadable(monkeypatch, storage, blobs):
        for digest in blobs:
            with pytest.raises((BlobNotFound, SourceUnavailable)) as caught:
                await read(storage, digest)
            outcomes.append(caught.type)
        assert outcomes.count(BlobNotFound) == 16
        assert outcomes[-1] is SourceUnavailable
        serving, reason = storage.health()
        assert not serving
        assert "unreadable within 10 minutes" in reason
    await until_healthy(storage)
    storage.volume_watch.recheck_unread_now()
    await storage.volume_watch.poll()
    assert await storage.find_missing(blobs) == set()


def test_the_breaker_believes_a_hundred_or_a_twentieth_of_all_within_ten_minutes() -> None:
    digest = digest_of(b"any")

    def believed(held: int, *, is_proven: bool, step_s: float = 0.0) -> int:
        breaker = DamageBreaker()
        times = [n * step_s for n in range(1000)]
        return sum(breaker.admit(at, digest, 1, held, is_proven=is_proven) for at in times)

    assert believed(60, is_proven=True) == 100
    assert believed(10_000, is_proven=True) == 500
    assert believed(10_000, is_proven=False) == 16
    assert believed(60, is_proven=True, step_s=10.0) == 1000
    lifted = DamageBreaker()
    lifted.lift()
    assert all(lifted.admit(0.0, digest, 1, 1, is_proven=False) for _ in range(1000))


async def test_proven_damage_beyond_belief_is_neither_removed_nor_served(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    blobs = {digest_of(data): data for data in (os.urandom(SIZE) for _ in range(130))}
    for data in blobs.values():
        await put(storage, data)
    for digest in blobs:
        path_of(storage, digest).write_bytes(os.urandom(SIZE))
    for digest in blobs:
        with pytest.raises((BlobNotFound, SourceUnavailable)):
            await read(storage, digest)
    assert rows(storage) == 30
    assert storage.health()[0] is False
    for digest, data in blobs.items():
        if path_of(storage, digest).exists():
            path_of(storage, digest).write_bytes(data)
    await until_healthy(storage)


# -- quarantine ----------------------------------------------------------------------------


async def test_a_report_about_an_object_that_was_replaced_meanwhile_is_stale(
    open_storage: Opener,
) -> None:
    """Two readers find the same damage; a client has sent the blob anew before the second tells."""
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    damaged_seq = storage.core.head.value
    damage = Damage("does not match its digest")
    await storage.core.set_aside(digest, damaged_seq, damage)
    assert await storage.find_missing([digest]) == {digest}
    await put(storage, data)
    await storage.core.set_aside(digest, damaged_seq, damage)
    assert await storage.find_missing([digest]) == set()
    assert await read(storage, digest) == data


async def test_quarantine_stays_within_a_part_of_the_quota_and_counts_in_it(
    open_storage: Opener,
) -> None:
    quota = 20 * MIB
    storage = await open_storage(short(quota=quota))
    for _ in range(8):
        data = os.urandom(MIB // 4)
        digest = await put(storage, data)
        path_of(storage, digest).write_bytes(bytes(MIB // 4))
        with pytest.raises(BlobNotFound):
            await read(storage, digest)
    kept = quarantine.kept_bytes(storage.core.directory)
    assert 0 < kept <= quota // 20
    await storage.flusher.measure()
    assert storage.core.space.quota_bytes <= quota - kept


async def test_what_may_be_right_is_not_removed_to_make_room(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage(short(quota=24 * MIB))  # a twentieth is kept: 1 MiB
    blobs = [await put(storage, os.urandom(MIB // 2 - 8192)) for _ in range(3)]
    with unreadable(monkeypatch, storage, blobs):
        for digest in blobs[:2]:
            with pytest.raises(BlobNotFound):
                await read(storage, digest)
        with pytest.raises(SourceUnavailable):
            await read(storage, blobs[2])
    wrong = await put(storage, os.urandom(MIB // 2))
    path_of(storage, wrong).write_bytes(bytes(MIB // 2))
    with pytest.raises(BlobNotFound):
        await read(storage, wrong)
    assert len(quarantine.unread_files(storage.core.directory)) == 2
    assert await read(storage, blobs[2])


async def test_an_unread_file_that_turns_out_wrong_is_kept_as_any_damage(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    await storage.core.set_aside(digest, storage.core.head.value, Unreadable("cannot be read"))
    ((_, _, name),) = quarantine.unread_files(storage.core.directory)
    (storage.core.directory.quarantine / name).write_bytes(bytes(SIZE))
    storage.volume_watch.recheck_unread_now()
    await storage.volume_watch.poll()
    assert quarantine.unread_files(storage.core.directory) == []
    assert len(list(storage.core.directory.quarantine.iterdir())) == 1
    assert await storage.find_missing([digest]) == {digest}


async def test_a_file_that_cannot_be_moved_aside_and_may_be_right_stays(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await put(storage, data)
    directory, seq = storage.core.directory, storage.core.head.value
    directory.quarantine.rename(directory.root / "no-quarantine")
    outcome = await storage.core.writer.submit(
        lambda tx: quarantine.quarantine(tx, directory, digest, seq, Unreadable("cannot be read"))
    )
    assert outcome is QuarantineOutcome.NO_ROOM
    (directory.root / "no-quarantine").rename(directory.quarantine)
    key = catalogue.key_of(digest)
    found = await storage.core.pool.run(
        lambda: catalogue.look_up(storage.core.pool.connection(), [key])
    )
    assert found[key].seq == seq
    assert await asyncio.wait_for(read(storage, digest), 10) == data
