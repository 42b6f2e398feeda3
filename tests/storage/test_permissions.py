"""What lies in a data directory is for the node's user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from federation.core.errors import StorageRefused
from federation.storage.directory import DataDirectory
from federation.storage.permissions import tighten
from tests.storage.conftest import opened, put, short


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_up(root: Path) -> None:
    """Let everybody read, as a directory of a careless umask does."""
    for path in root.iterdir():
        path.chmod(0o755 if path.is_dir() else 0o644)
    root.chmod(0o755)


async def test_a_directory_that_others_can_read_is_tightened(tmp_path: Path) -> None:
    root = tmp_path / "data"
    async with opened(root, short()) as storage:
        await put(storage, b"small")
    open_up(root)
    async with opened(root, short()) as storage:
        await put(storage, b"another")
        assert mode(root) == 0o700
        exposed = [path.name for path in root.iterdir() if mode(path) & 0o077]
        assert exposed == []
        names = {path.name for path in root.iterdir()}
        assert {"catalogue.sqlite", "catalogue.sqlite-shm", "catalogue.sqlite-wal"} <= names


async def test_what_is_not_ours_in_it_stays_within_reach(tmp_path: Path) -> None:
    """As certificates in the directory of somebody who gave their home to the old server."""
    root = tmp_path / "data"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    other = root / "server.crt"
    other.write_text("public")
    other.chmod(0o644)
    async with opened(root, short()) as storage:
        await put(storage, b"small")
        assert mode(root) == 0o755
        assert mode(other) == 0o644
        assert not mode(root / "catalogue.sqlite") & 0o077
        assert not mode(root / "blobs") & 0o077


def test_a_link_to_another_disk_is_followed_and_one_to_a_file_is_not(tmp_path: Path) -> None:
    root, disk, file = tmp_path / "data", tmp_path / "disk", tmp_path / "file"
    root.mkdir(mode=0o700)
    disk.mkdir()
    disk.chmod(0o755)
    file.write_text("")
    file.chmod(0o644)
    (root / "blobs").symlink_to(disk)
    (root / "catalogue.sqlite").symlink_to(file)
    DataDirectory(root).prepare()
    tighten(DataDirectory(root))
    assert mode(disk) == 0o700
    assert mode(file) == 0o644


def test_a_directory_of_somebody_else_where_everybody_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.root.chmod(0o755)
    me = directory.root.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert tighten(directory) == []
    assert mode(directory.root) == 0o755
    directory.root.chmod(0o777)
    with pytest.raises(StorageRefused, match="chmod o-w"):
        tighten(directory)
