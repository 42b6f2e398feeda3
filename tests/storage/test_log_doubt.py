"""A write-ahead log whose write-back failed: what the kernel shows may not be on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from federation.core.digest import digest_of
from federation.core.errors import StorageFailed
from federation.storage.catalogue import schema
from federation.storage.shared_memory import Epoch
from tests.storage.conftest import opened, put, read, short


def _snapshot(data: Path, to: Path) -> None:
    """What a kill leaves: the files as the kernel shows them, without the shared memory."""
    shutil.copytree(data, to, ignore=shutil.ignore_patterns("*-shm", "*.lock", "*.json"))


def _wal(data: Path) -> Path:
    return data / "catalogue.sqlite-wal"


async def test_s08_rows_behind_frames_that_never_reached_the_disk_survive_a_power_cut(
    tmp_path: Path,
) -> None:
    """The order: a failed WAL fsync, kill -9, restart, an acknowledged write, a power cut."""
    before, killed, cut = tmp_path / "before", tmp_path / "killed", tmp_path / "cut"
    async with opened(before, short()) as storage:
        synced = await put(storage, b"acknowledged before")
        on_disk = _wal(before).stat().st_size
        await put(storage, b"its commit could not be made durable")
        _snapshot(before, killed)
    only_in_memory = _wal(killed).read_bytes()[on_disk:]
    assert only_in_memory
    # SQLite empties the log when the last connection closes; a program that looks is one more.
    looking = apsw.Connection(str(killed / "catalogue.sqlite"))
    assert looking.execute("SELECT count(*) FROM blob").fetchone()
    async with opened(killed, short()) as storage:
        acknowledged = await put(storage, b"acknowledged after the restart")
        _snapshot(killed, cut)
    looking.close()
    with _wal(cut).open("r+b") as file:  # where nobody wrote again, the disk has nothing
        file.seek(on_disk)
        if file.read(len(only_in_memory)) == only_in_memory:
            file.seek(on_disk)
            file.write(bytes(len(only_in_memory)))
    async with opened(cut, short()) as storage:
        assert await read(storage, synced) == b"acknowledged before"
        assert await read(storage, acknowledged) == b"acknowledged after the restart"


async def test_s08_a_process_whose_commit_failed_has_the_next_one_begin_the_log_anew(
    tmp_path: Path,
) -> None:
    """Though it is still there, reading: it does not write any more."""
    async with opened(tmp_path, short()) as failed:
        held = await put(failed, b"held")
        failed.core.writer.fail("the disk gave an error")
        assert _wal(tmp_path).stat().st_size > 0
        async with opened(tmp_path, short()) as storage:
            assert not storage.core.epoch.is_log_in_doubt
            await put(storage, b"new")
            assert await failed.find_missing([held, digest_of(b"new")]) == set()
        with pytest.raises(StorageFailed):
            await failed.core.writer.submit(lambda _: None)


def test_a_log_in_doubt_is_known_to_all_processes(tmp_path: Path) -> None:
    one, other = Epoch(tmp_path / "epoch"), Epoch(tmp_path / "epoch")
    one.doubt_log(is_in_doubt=True)
    assert other.is_log_in_doubt
    other.doubt_log(is_in_doubt=False)
    assert not one.is_log_in_doubt
    one.close()
    other.close()


async def test_s12_a_full_disk_keeps_no_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "data", short()) as storage:
        held = await put(storage, b"held")
        _snapshot(tmp_path / "data", tmp_path / "killed")
    real: Callable[..., apsw.Connection] = schema.connect

    class Full:
        def __init__(self, connection: apsw.Connection) -> None:
            self._connection = connection

        def execute(self, sql: str, *bindings: apsw.Bindings) -> apsw.Cursor:
            if "wal_checkpoint" in sql:
                raise apsw.FullError("database or disk is full")
            return self._connection.execute(sql, *bindings)

        def __getattr__(self, name: str) -> object:
            return getattr(self._connection, name)

    monkeypatch.setattr(schema, "connect", lambda *args, **more: Full(real(*args, **more)))
    async with opened(tmp_path / "killed", short()) as storage:
        assert await read(storage, held) == b"held"
