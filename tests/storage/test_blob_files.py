"""Reading a blob's file without a thread."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.storage import blob_files

DATA = bytes(range(256)) * 4096


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "blob").write_bytes(DATA)
    fd = os.open(tmp_path / "blob", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.disk
def test_what_was_just_written_is_read_without_a_thread(fd: int) -> None:
    assert blob_files.read_cached(fd, 1000, 300) == DATA[300:1300]


def test_a_file_that_ends_early_is_left_to_a_thread_to_report(fd: int) -> None:
    assert blob_files.read_cached(fd, 1000, len(DATA) - 999) is None


def test_a_read_that_fails_is_left_to_a_thread_to_report(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert blob_files.read_cached(folder, 10, 0) is None
    finally:
        os.close(folder)


def test_without_help_of_the_kernel_everything_is_left_to_threads(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_files, "_IF_CACHED", None)
    assert blob_files.read_cached(fd, 10, 0) is None


def test_reading_onwards_changes_nothing_of_what_is_read(fd: int) -> None:
    blob_files.read_onwards(fd)
    assert blob_files.read_exactly(fd, len(DATA), 0) == DATA


def test_a_large_write_is_made_in_short_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    write = os.write

    def write_some(fd: int, data: memoryview) -> int:
        steps.append(len(data))
        return write(fd, data[:100_000])  # the kernel may take less than it was given

    with (tmp_path / "new").open("wb") as file, monkeypatch.context() as patched:
        patched.setattr(os, "write", write_some)
        blob_files.write_whole(file.fileno(), DATA)
    assert (tmp_path / "new").read_bytes() == DATA
    assert max(steps) == 64 * 1024
