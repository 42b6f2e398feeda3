"""Upkeep that fails goes on afterwards, lets go of its lock meanwhile, and says so."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from federation.config.storage import ScrubConfig
from federation.core.errors import StorageFull
from federation.core.tasks import Background
from federation.storage.shared_memory import FileLock
from federation.storage.storage import Storage
from federation.storage.upkeep import scrub
from federation.storage.upkeep.scrub import Scrubber
from tests.storage.conftest import opened, put, short, until
from tests.support.polling import pass_time

Opener = Callable[..., Awaitable[Storage]]


async def test_maintenance_that_fails_unexpectedly_lets_go_of_the_lock_and_goes_on(
    open_storage: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await open_storage()

    async def first_holds() -> bool:
        return first.maintenance.is_holder

    await until(first_holds)

    async def garbage() -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    async with opened(tmp_path / "data", short()) as second:

        async def second_holds() -> bool:
            return second.maintenance.is_holder and not first.maintenance.is_holder

        with monkeypatch.context() as patch:
            patch.setattr(first.maintenance, "_serve_request", garbage)
            await until(second_holds, 30)
    await until(first_holds, 30)


class LateLock(FileLock):
    """A lock that is taken only when a test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()

    def acquire(self, *, wait: bool = False) -> bool:
        self.is_asked.set()
        assert self.may_go_on.wait(60)
        return super().acquire(wait=wait)


async def test_a_lock_that_is_taken_while_the_node_closes_is_released(tmp_path: Path) -> None:
    async with opened(tmp_path / "data", short()) as storage:

        async def holds() -> bool:
            return storage.maintenance.is_holder

        await until(holds)
        path = storage.core.directory.maintenance_lock
        late = LateLock(path)
        storage.maintenance._lock.release()
        storage.maintenance._lock = late
        await asyncio.to_thread(late.is_asked.wait, 60)
        await storage.maintenance.close()
        late.may_go_on.set()
    assert not late.held
    assert FileLock(path).acquire()


async def test_a_collect_request_that_is_garbage_does_not_stop_maintenance(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    connection = apsw.Connection(str(storage.core.directory.catalogue))
    connection.set_busy_timeout(5000)
    for garbage in ("{", "[]", '{"target_bytes": "much"}', "{}"):
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('collect_request', ?)", (garbage,))

        async def gone() -> bool:
            return not connection.execute(
                "SELECT 1 FROM meta WHERE name = 'collect_request'"
            ).fetchall()

        await until(gone)
    connection.close()
    assert storage.core.metrics.failing.reason == ""


@pytest.mark.slow
async def test_a_scrub_whose_position_cannot_be_saved_goes_on(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage(short(scrub=ScrubConfig(rate=10**12), verify_after=0.0))
    monkeypatch.setattr(scrub, "_SAVE_EVERY_S", -1.0)
    verify_slice = scrub.verify_slice
    monkeypatch.setattr(
        scrub,
        "verify_slice",
        lambda core, after, before_ms: verify_slice(core, after, before_ms, 1),
    )
    for _ in range(5):
        await put(storage, os.urandom(80_000))
    pass_time(0.01)  # what was verified in this very millisecond is not looked at again
    scrubber, tried = Scrubber(storage.core), list[bytes]()

    async def full(cursor: bytes) -> None:
        tried.append(cursor)
        raise StorageFull("no room")

    monkeypatch.setattr(scrubber, "_save_cursor", full)
    background = Background()
    background.start(scrubber.run(), "scrub")

    async def scrubbed_on() -> bool:
        return len(set(tried)) > 1

    try:
        await until(scrubbed_on, 30)
    finally:
        await background.close()
