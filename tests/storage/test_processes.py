"""What several processes on one data directory know of each other's change log."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from federation.core.clock import SystemClock
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.storage.log_end import LogEnd
from federation.storage.shared_memory import Epoch
from federation.storage.storage import Storage
from tests.storage.conftest import opened, put, short, until

OpenStorage = Callable[..., Awaitable[Storage]]


async def test_a_commit_of_one_process_wakes_who_waits_in_another(
    open_storage: OpenStorage,
) -> None:
    here, there = await open_storage(), await open_storage()
    waiting = asyncio.ensure_future(there.ledger.wait_beyond(0, 30))
    await put(here, b"blob")
    assert await waiting
    assert here.ledger.head() == there.ledger.head() == 1
    assert (await there.ledger.read(0, 10)).rows[0].seq == 1


async def test_p7_one_look_serves_all_that_wait_and_ends_with_them(
    open_storage: OpenStorage,
) -> None:
    here, there = await open_storage(), await open_storage()
    waits = [asyncio.ensure_future(there.ledger.wait_beyond(n % 2, 30)) for n in range(20)]
    await asyncio.sleep(0)
    assert len(_watching()) == 1
    await put(here, b"one")
    assert all(await asyncio.gather(*waits[::2]))
    assert not any(wait.done() for wait in waits[1::2])
    await put(here, b"two")
    assert all(await asyncio.gather(*waits))

    async def is_over() -> bool:
        return not _watching()

    await until(is_over)


def _watching() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "watch-others"]


async def test_only_one_process_replicates_and_another_takes_over(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as there:
        async with opened(tmp_path, short()) as here:
            assert here.ledger.try_to_lead()
            assert not there.ledger.try_to_lead()
        assert there.ledger.try_to_lead()


async def test_an_older_number_left_in_shared_memory_is_put_right(
    open_storage: OpenStorage,
) -> None:
    here, there = await open_storage(), await open_storage()
    await put(here, b"one")
    await put(here, b"two")
    here.core.epoch.set_head(1)  # as a process that was slower may do
    assert here.ledger.head() == 2
    await there.flusher.measure()
    assert there.ledger.head() == 2
    assert here.core.epoch.head == 2


async def test_the_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        await put(storage, b"one")
        epoch = storage.ledger.log_epoch
    async with opened(tmp_path, short()) as storage:
        assert storage.ledger.head() == 1
        assert storage.ledger.log_epoch == epoch


@pytest.mark.parametrize("what", ["the directory", "the catalogue", "its content"])
async def test_r21_a_backup_put_back_begins_a_new_log(tmp_path: Path, what: str) -> None:
    data = tmp_path / "data"
    async with opened(data, short()) as storage:
        await put(storage, b"one")
        epoch = storage.ledger.log_epoch
    shutil.copytree(data, tmp_path / "backup")
    async with opened(data, short()) as storage:
        await put(storage, b"two")
        assert storage.ledger.log_epoch == epoch
    _put_back(tmp_path / "backup", data, what)
    async with opened(data, short()) as storage:
        assert storage.ledger.head() == 1
        assert storage.ledger.log_epoch != epoch
        again = storage.ledger.log_epoch
    async with opened(data, short()) as storage:
        assert storage.ledger.log_epoch == again


def _put_back(backup: Path, data: Path, what: str) -> None:
    if what == "the directory":
        data.rename(data.with_name("lost"))
        shutil.copytree(backup, data)
    elif what == "the catalogue":
        shutil.move(backup / "catalogue.sqlite", data / "catalogue.sqlite")
    else:
        (data / "catalogue.sqlite").write_bytes((backup / "catalogue.sqlite").read_bytes())


async def test_head_never_goes_back_for_who_knows_better(tmp_path: Path) -> None:
    epoch = Epoch(tmp_path / "epoch")
    head = LogEnd(epoch, SystemClock())
    head.note(5)
    head.note(3)
    assert head.value == epoch.head == 5
    assert not await head.wait_beyond(5, 0)
    await head.close()
    epoch.close()


# -- acknowledgements ------------------------------------------------------------------------


def record(
    name: str,
    cursor: int,
    *,
    lane: Lane = Lane.ALWAYS,
    state: PeerState = PeerState.FOLLOWING,
    reason: str = "",
) -> PeerRecord:
    return PeerRecord(name, lane, cursor, state, reason)


async def test_a_write_waits_for_one_peer_or_for_all(open_storage: OpenStorage) -> None:
    ledger = (await open_storage()).ledger
    assert ledger.try_to_lead()
    peers = ["tokyo", "paris"]
    one = asyncio.ensure_future(ledger.wait_acknowledged(7, peers, 1, 30))
    both = asyncio.ensure_future(ledger.wait_acknowledged(7, peers, 2, 30))
    await asyncio.sleep(0)
    ledger.note_acknowledged("tokyo", Lane.ALWAYS, 6)
    ledger.note_acknowledged("elsewhere", Lane.ALWAYS, 9)
    ledger.note_acknowledged("paris", Lane.WINDOW, 9)
    await asyncio.sleep(0)
    assert not one.done()
    ledger.note_acknowledged("tokyo", Lane.ALWAYS, 8)
    assert await one
    assert not both.done()
    ledger.note_acknowledged("paris", Lane.ALWAYS, 7)
    assert await both
    assert not await ledger.wait_acknowledged(9, peers, 1, 0.01)
    assert await ledger.wait_acknowledged(9, [], 0, 0.01)


async def test_a_process_that_does_not_replicate_hears_of_it_from_the_one_that_does(
    open_storage: OpenStorage,
) -> None:
    here, there = await open_storage(), await open_storage()
    waits = [
        asyncio.ensure_future(here.ledger.wait_acknowledged(2, ["tokyo"], 1, 30)) for _ in range(50)
    ]
    waits[0].cancel()  # one that gives up takes nothing from the others
    there.ledger.note_acknowledged("paris", Lane.ALWAYS, 9)
    there.ledger.note_acknowledged("tokyo", Lane.ALWAYS, 1)
    assert not await here.ledger.wait_acknowledged(2, ["tokyo"], 1, 0.2)
    assert not any(wait.done() for wait in waits[1:])
    assert len(_watching()) == 1
    there.ledger.note_acknowledged("tokyo", Lane.ALWAYS, 2)
    assert await asyncio.gather(*waits[1:]) == [True] * 49
    assert await here.ledger.wait_acknowledged(9, ["paris", "tokyo"], 1, 0)
    await there.ledger.drop("paris")
    assert not await here.ledger.wait_acknowledged(9, ["paris", "tokyo"], 1, 0)


async def test_no_process_believes_what_it_heard_of_a_peer_that_is_compared_anew(
    open_storage: OpenStorage,
) -> None:
    here, there = await open_storage(), await open_storage()
    there.ledger.note_acknowledged("tokyo", Lane.ALWAYS, 7)
    for process in (here, there):
        assert await process.ledger.wait_acknowledged(7, ["tokyo"], 1, 10)
    there.ledger.note_unacknowledged("tokyo")
    for process in (here, there):
        assert not await process.ledger.wait_acknowledged(7, ["tokyo"], 1, 0.01)
        assert not await process.ledger.wait_acknowledged(0, ["tokyo"], 1, 0.01)
    there.ledger.note_acknowledged("tokyo", Lane.ALWAYS, 0)  # nothing was ever pushed
    for process in (here, there):
        assert await process.ledger.wait_acknowledged(0, ["tokyo"], 1, 10)
    there.ledger.note_acknowledged("tokyo", Lane.ALWAYS, 7)
    for process in (here, there):
        assert await process.ledger.wait_acknowledged(7, ["tokyo"], 1, 10)


async def test_what_was_acknowledged_before_a_restart_is_in_the_records(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        for n in range(3):
            await put(storage, b"%d" % n)
        lost = record("paris", 3, state=PeerState.NEEDS_RESYNC, reason="new")
        await storage.ledger.save([record("tokyo", 2), record("lima", 3, lane=Lane.WINDOW), lost])
        storage.ledger.note_acknowledged("tokyo", Lane.ALWAYS, 3)  # never saved
    async with opened(tmp_path, short()) as storage:
        wait = storage.ledger.wait_acknowledged
        assert await wait(2, ["tokyo", "paris", "lima"], 1, 0)
        assert not await wait(2, ["tokyo", "paris", "lima"], 2, 0)
        assert not await wait(3, ["tokyo"], 1, 0)


def test_p7_what_is_told_of_peers_is_bounded_and_never_of_another(tmp_path: Path) -> None:
    epoch, other = Epoch(tmp_path / "epoch"), Epoch(tmp_path / "epoch")
    for peer in range(1, 200):
        epoch.set_acknowledged(peer, peer * 10)
    told = [other.acknowledged(peer) for peer in range(1, 200)]
    assert told == [peer * 10 for peer in range(1, 129)] + [0] * 71
    epoch.set_acknowledged(7, 71)
    assert (other.acknowledged(7), other.acknowledged(8)) == (71, 80)
    epoch.set_head(5)
    epoch.forget_peers()
    assert not any(other.acknowledged(peer) for peer in range(200))
    assert other.head == 5
    epoch.close()
    other.close()


def test_s17_a_truncated_epoch_file_ends_no_process_and_is_noticed_by_all(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    epoch, other, late = Epoch(path), Epoch(path), Epoch(path)
    for _ in range(5):
        epoch.bump()
    assert (epoch.value, other.value, late.value) == (5, 5, 5)
    epoch.set_head(7)
    epoch.set_acknowledged(1, 7)
    for size in (0, 3, 100):
        before = [each.value for each in (epoch, other, late)]
        os.truncate(path, size)
        epoch.want(1000)
        assert other.take_wanted() == 1000
        assert epoch.acknowledged(1) == 0
        epoch.set_head(8)
        assert other.head == 8
        for _ in range(5):  # a counter that began at 0 would meet what others have seen
            other.bump()
        after = [each.value for each in (epoch, other, late)]
        assert len(set(after)) == 1
        assert after[0] not in before
        assert path.stat().st_size == 4096
    for each in (epoch, other, late):
        each.close()


def test_what_cannot_be_read_of_the_epoch_is_never_what_was_there_before(tmp_path: Path) -> None:
    epoch = Epoch(tmp_path / "epoch")
    epoch.bump()
    descriptor = epoch._fd
    epoch._fd = os.open(tmp_path, os.O_RDONLY)  # reading a folder is an error
    assert len({1, *(epoch.value for _ in range(3))}) == 4
    assert epoch.head == 0
    os.close(epoch._fd)
    epoch._fd = descriptor
    assert epoch.value == 1
    epoch.close()
