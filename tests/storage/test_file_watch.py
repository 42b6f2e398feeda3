"""Which changes below blobs/ are noticed, and that the node's own uploads are none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from federation.core.digest import digest_of
from federation.storage import file_watch
from federation.storage.file_watch import FileWatch
from federation.storage.storage import Storage
from tests.storage.conftest import fresh, put, short, until

Opener = Callable[..., Awaitable[Storage]]


def _unlink(path: Path) -> None:
    path.unlink()


def _move_away(path: Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere")


def _replace(path: Path) -> None:
    other = path.parent.parent.parent / "other"
    other.write_bytes(b"other")
    other.rename(path)


def _rename_within(path: Path) -> None:
    path.rename(path.with_name("other"))


def _truncate(path: Path) -> None:
    os.truncate(path, 3)


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def _remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def _move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def _move_all(path: Path) -> None:
    blobs = path.parent.parent
    blobs.rename(blobs.with_name("moved"))


CHANGES = [_unlink, _move_away, _replace, _rename_within, _truncate, _write]
ENDS = [_remove_folder, _move_folder, _move_all]


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    blobs = tmp_path / "blobs"
    for number in range(256):
        (blobs / f"{number:02x}").mkdir(parents=True)
    (tmp_path / "incoming").mkdir()
    (blobs / "7f/blob").write_bytes(b"content")
    return blobs


@pytest.fixture
def watch(blobs: Path) -> FileWatch:
    watch = FileWatch(blobs, blobs.with_name("incoming"))
    watch.start()
    assert watch.is_on
    return watch


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_once(
    blobs: Path, watch: FileWatch, change: Callable[[Path], None]
) -> None:
    before = watch.changes()
    assert watch.changes() == before
    change(blobs / "7f/blob")
    assert watch.changes() > before
    assert watch.is_on
    watch.close()


@pytest.mark.parametrize("end", ENDS)
def test_a_folder_that_goes_ends_the_watch(
    blobs: Path, watch: FileWatch, end: Callable[[Path], None]
) -> None:
    before = watch.changes()
    end(blobs / "7f/blob")
    assert watch.changes() > before
    assert not watch.is_on
    watch.start()
    assert is_off(watch), "not all folders are there"
    for number in range(256):
        (blobs / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    before = watch.changes()
    watch.start()
    assert not is_off(watch)
    assert watch.changes() > before, "what went meanwhile is not known"
    watch.close()


def is_off(watch: FileWatch) -> bool:
    return not watch.is_on


def test_a_file_that_comes_from_incoming_is_no_change(blobs: Path, watch: FileWatch) -> None:
    before = watch.changes()
    for number in range(3 * file_watch._PLACING_MAX):
        received = blobs.with_name("incoming") / "received"
        received.touch()
        received.rename(blobs / f"{number % 256:02x}" / f"new-{number}")
        if number % 700 == 0:
            assert watch.changes() == before
    (blobs / "00/new-0").unlink()
    assert watch.changes() > before, "this test would not see a change"
    watch.close()


def test_more_changes_than_the_kernel_keeps_are_changes(blobs: Path, watch: FileWatch) -> None:
    before = watch.changes()
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    received = blobs.with_name("incoming") / "received"
    received.touch()
    for _ in range(most // 2 + 1):
        received.rename(blobs / "00/blob")
        (blobs / "00/blob").rename(received)
    assert watch.changes() > before
    assert not watch.is_on
    watch.close()


def test_a_file_system_that_is_not_local_is_not_watched(
    blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watch, "_LOCAL", frozenset())
    watch = FileWatch(blobs, blobs.with_name("incoming"))
    with structlog.testing.capture_logs() as logs:
        watch.start()
    assert not watch.is_on
    assert [line["event"] for line in logs] == ["files_not_watched"]
    watch.close()


async def test_storing_files_in_any_way_and_process_changes_nothing(open_storage: Opener) -> None:
    here, there = await open_storage(short(lease=3600)), await open_storage(short(lease=3600))
    for storage in (here, there):
        assert storage.core.files.is_on
    before = [storage.core.files.changes() for storage in (here, there)]
    digest, data = fresh(100_000)
    await put(here, data)
    ingest = there.begin(digest_of(data[1:]))
    await ingest.append(data[1:])
    assert await ingest.commit()
    assert [storage.core.files.changes() for storage in (here, there)] == before
    _unlink(Path(here.core.directory.blob_path(digest)))
    now = [storage.core.files.changes() for storage in (here, there)]
    assert now == [number + 1 for number in before]


async def test_a_watch_that_ended_begins_again(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    files = storage.core.files
    files.changes()
    files.close()
    storage.volume_watch._next_rewatch_s = 0.0
    await storage.volume_watch.poll()

    async def is_on() -> bool:  # the storage's own poll may be the one that does it
        return files.is_on

    await until(is_on)
