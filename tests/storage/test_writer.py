"""Group commit: what fails alone, what fails together, and what stops writing for good."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import apsw
import pytest

from federation.core.clock import SystemClock
from federation.core.errors import SourceUnavailable, StorageFailed, StorageFull, TooBusy
from federation.observability.metrics import Metrics
from federation.storage.catalogue import schema
from federation.storage.catalogue.transaction import Totals, Transaction, read_totals
from federation.storage.catalogue.writer import Writer
from federation.storage.timing import StoreClock


class Failing:
    """A connection that raises when a chosen statement is executed."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.fail_on: dict[str, Exception] = {}
        self.executed: list[str] = []

    def execute(self, sql: str, *bindings: apsw.Bindings) -> apsw.Cursor:
        self.executed.append(sql)
        if (error := self.fail_on.pop(sql, None)) is not None:
            raise error
        return self._connection.execute(sql, *bindings)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


@pytest.fixture
def failing(tmp_path: Path) -> Failing:
    connection = schema.connect(tmp_path / "catalogue.sqlite")
    schema.bring_up(connection)
    return Failing(connection)


@pytest.fixture
async def writer(failing: Failing) -> AsyncIterator[Writer]:
    clock = SystemClock()
    made = Writer(
        lambda: cast("apsw.Connection", failing),
        StoreClock(clock, 0),
        clock,
        quota_bytes=lambda: 1000,
        on_commit=lambda _totals, _held: None,
        metrics=Metrics(),
        node_id="here",
    )
    made.start()
    yield made
    await asyncio.to_thread(made.close)


def note(name: str, fail: Exception | None = None) -> Callable[[Transaction], str]:
    def work(transaction: Transaction) -> str:
        transaction.connection.execute("INSERT INTO meta VALUES (?, 1)", (name,))
        transaction.totals.blobs += 1
        if fail is not None:
            raise fail
        return name

    return work


def names(failing: Failing) -> set[object]:
    rows = failing._connection.execute("SELECT name FROM meta").fetchall()
    return {name for (name,) in rows}


async def test_an_operation_that_fails_is_undone_alone(writer: Writer, failing: Failing) -> None:
    works = [note("a"), note("b", StorageFull("no")), note("c")]
    results = await asyncio.gather(
        *(writer.submit(work) for work in works),
        return_exceptions=True,
    )
    assert results[0::2] == ["a", "c"]
    assert isinstance(results[1], StorageFull)
    assert names(failing) >= {"a", "c"}
    assert "b" not in names(failing)
    assert read_totals(failing._connection) == Totals(0, 2, 0, 0)


async def test_operations_that_wait_share_one_commit(writer: Writer, failing: Failing) -> None:
    gate = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def block(_: Transaction) -> None:
        asyncio.run_coroutine_threadsafe(_wait(gate), loop).result()

    first = asyncio.ensure_future(writer.submit(block))
    rest = [asyncio.ensure_future(writer.submit(note(f"n{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    gate.set_result(None)
    await asyncio.gather(first, *rest)
    assert failing.executed.count("COMMIT") <= 3


async def _wait(gate: asyncio.Future[None]) -> None:
    await gate


async def test_s10_a_full_disk_fails_the_group_and_the_next_one_works(
    writer: Writer, failing: Failing
) -> None:
    failing.fail_on["COMMIT"] = apsw.FullError("disk full")
    with pytest.raises(StorageFull):
        await writer.submit(note("a"))
    assert await writer.submit(note("b")) == "b"
    assert names(failing) == {"b"}
    assert writer.failure is None


async def test_s08_after_an_io_error_nothing_is_written_any_more(
    writer: Writer, failing: Failing
) -> None:
    failing.fail_on["COMMIT"] = apsw.IOError("disk I/O error")
    with pytest.raises(StorageFailed):
        await writer.submit(note("a"))
    executed = len(failing.executed)
    with pytest.raises(StorageFailed, match="read-only"):
        await writer.submit(note("b"))
    assert len(failing.executed) == executed
    assert names(failing) == set()


async def test_a_lock_that_is_not_had_is_silence_not_failure(
    writer: Writer, failing: Failing
) -> None:
    failing.fail_on["BEGIN IMMEDIATE"] = apsw.BusyError("database is locked")
    with pytest.raises(SourceUnavailable):
        await writer.submit(note("a"))
    assert await writer.submit(note("b")) == "b"


async def test_a_cancelled_caller_s_work_is_whole(writer: Writer, failing: Failing) -> None:
    task = asyncio.ensure_future(writer.submit(note("a")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await writer.submit(note("b"))
    assert names(failing) == {"a", "b"}


async def test_closing_works_off_what_is_queued(writer: Writer) -> None:
    tasks = [asyncio.ensure_future(writer.submit(note(f"n{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await asyncio.to_thread(writer.close)
    assert await asyncio.gather(*tasks) == [f"n{n}" for n in range(20)]
    with pytest.raises(StorageFailed, match="shutting down"):
        await writer.submit(note("late"))


# -- folders -------------------------------------------------------------------------------


def _places(folder: Path) -> Callable[[Transaction], None]:
    def work(transaction: Transaction) -> None:
        transaction.folders.add(str(folder))

    return work


class Handles:
    """os.open with so few handles: folders cannot be opened while fewer than needed are free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = 0
        self.refused = 0
        self._number = number
        self._open, self._close = os.open, os.close
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "close", self.close)

    def open(self, path: str, flags: int, *args: int) -> int:
        if flags & os.O_DIRECTORY and self.left < 1:
            self.refused += 1
            raise OSError(self._number, os.strerror(self._number))
        return self._open(path, flags, *args)

    def close(self, fd: int) -> None:
        self.left += 1
        self._close(fd)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_l09_a_folder_is_made_durable_though_no_handle_is_left(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = tmp_path / "ab"
    folder.mkdir()
    await writer.submit(_places(folder))  # by then the spare handle is there
    handles = Handles(monkeypatch, number)
    await writer.submit(_places(folder))
    assert handles.refused == 1


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.EMFILE, TooBusy), (errno.ENFILE, TooBusy), (errno.ESTALE, SourceUnavailable)],
)
async def test_l09_a_folder_that_cannot_be_opened_fails_that_write_only(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type
) -> None:
    folder = tmp_path / "ab"
    folder.mkdir()
    await writer.submit(_places(folder))
    with monkeypatch.context() as patch:
        handles = Handles(patch, number)
        handles.left = -1_000_000
        with pytest.raises(error):
            await writer.submit(_places(folder))
        assert handles.refused > 0
    assert writer.failure is None
    assert writer.take_unsettled() == {0xAB}
    await writer.submit(_places(folder))


async def test_s08_a_folder_that_cannot_be_made_durable_ends_all_writing(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ab"
    folder.mkdir()

    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(StorageFailed):
            await writer.submit(_places(folder))
    with pytest.raises(StorageFailed):
        await writer.submit(_places(folder))


async def test_a_catalogue_that_cannot_be_opened_now_fails_that_write_only(
    writer: Writer, failing: Failing
) -> None:
    failing.fail_on["BEGIN IMMEDIATE"] = apsw.CantOpenError("unable to open database file")
    with pytest.raises(SourceUnavailable, match="try again"):
        await writer.submit(lambda _: None)
    await writer.submit(lambda _: None)
