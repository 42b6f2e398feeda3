"""A backup is what was stored at one moment, whatever happens meanwhile, and comes back whole."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from federation.core.digest import digest_of
from federation.core.errors import BlobNotFound, StorageRefused
from federation.core.index import Entry, EntryKey, EntryKind
from federation.storage import blob_files
from federation.storage.admin import backup, restore, verify
from federation.storage.directory import DataDirectory
from federation.storage.reports import BackupReport
from tests.storage.conftest import opened, put, read, short

ENTRY = Entry(EntryKey(EntryKind.ASSET_BLOB, "", b"a"), b"value", "uri")
SMALL, LARGE, LATER = b"small", b"large" * 20_000, b"later" * 20_000


def silent(done: int, total: int) -> None:
    del done, total


def filled(path: Path) -> Path:
    async def fill() -> None:
        async with opened(path, short()) as storage:
            for data in (SMALL, LARGE):
                await put(storage, data)
            await storage.put([ENTRY])

    asyncio.run(fill())
    return path


def add(path: Path, data: bytes) -> None:
    async def write() -> None:
        async with opened(path, short()) as storage:
            await put(storage, data)

    asyncio.run(write())


def file_of(path: Path, data: bytes) -> Path:
    return Path(DataDirectory(path).blob_path(digest_of(data)))


def is_sound(path: Path) -> bool:
    return verify(path, short(), silent, repair=False).ok


def test_what_comes_back_is_what_was_stored(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    found = backup(tmp_path / "data", tmp_path / "to", silent)
    assert (found.ok, found.blobs, found.copied_files) == (True, 2, 1)
    assert stat.S_IMODE((tmp_path / "to").stat().st_mode) == 0o700
    restored = restore(tmp_path / "to", tmp_path / "back", silent)
    assert (restored.blobs, restored.size_bytes) == (2, len(SMALL) + len(LARGE))
    assert is_sound(tmp_path / "back")
    asyncio.run(check_alike(tmp_path / "data", tmp_path / "back"))


async def check_alike(original: Path, copy: Path) -> None:
    async with opened(original, short()) as first, opened(copy, short()) as second:
        for data in (SMALL, LARGE):
            assert await read(second, digest_of(data)) == data
        (entry,) = await second.get([ENTRY.key])
        assert entry is not None
        assert entry.value == ENTRY.value
        assert second.ledger.node_id == first.ledger.node_id
        # Peers must not take its change log for the original's.
        assert second.ledger.log_epoch != first.ledger.log_epoch


def test_a_second_backup_copies_what_is_new_and_removes_what_is_gone(tmp_path: Path) -> None:
    data, to = filled(tmp_path / "data"), tmp_path / "to"
    backup(data, to, silent)

    async def change_and_back_up() -> BackupReport:
        async with opened(data, short()) as storage:
            await put(storage, LATER)
            await asyncio.to_thread(file_of(data, LARGE).unlink)
            with pytest.raises(BlobNotFound):
                await read(storage, digest_of(LARGE))
            return await asyncio.to_thread(backup, data, to, silent)  # beside the node

    found = asyncio.run(change_and_back_up())
    assert (found.copied_files, found.kept_files, found.removed_files) == (1, 0, 1)
    assert is_sound(to)
    again = backup(data, to, silent)
    assert (again.copied_files, again.kept_files, again.removed_files) == (0, 1, 0)


def test_a_blob_that_goes_while_it_is_copied_is_not_named(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    file_of(tmp_path / "data", LARGE).unlink()  # its row is still there, as within an eviction
    found = backup(tmp_path / "data", tmp_path / "to", silent)
    assert (found.ok, found.evicted_blobs, found.blobs) == (True, 1, 1)
    assert is_sound(tmp_path / "to")


def test_a_damaged_blob_is_left_out_and_said(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    file_of(tmp_path / "data", LARGE).write_bytes(b"x" * 50_000)
    found = backup(tmp_path / "data", tmp_path / "to", silent)
    assert (found.ok, found.damaged_blobs, found.blobs) == (False, 1, 1)
    assert is_sound(tmp_path / "to")


def test_a_damaged_backup_does_not_come_back(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    backup(tmp_path / "data", tmp_path / "to", silent)
    file_of(tmp_path / "to", LARGE).write_bytes(b"x" * 50_000)
    restored = restore(tmp_path / "to", tmp_path / "back", silent)
    assert (restored.ok, restored.damaged_blobs) == (False, 1)
    assert is_sound(tmp_path / "back")


def test_a_backup_that_breaks_off_stays_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "data")
    backup(tmp_path / "data", tmp_path / "to", silent)
    add(tmp_path / "data", LATER)

    def full(fd: int, data: bytes) -> None:
        del fd, data
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(blob_files, "write_whole", full)
        with pytest.raises(StorageRefused, match=r"not finished: .*No space"):
            backup(tmp_path / "data", tmp_path / "to", silent)
    assert is_sound(tmp_path / "to")
    restored = restore(tmp_path / "to", tmp_path / "back", silent)
    assert restored.blobs == 2
    assert backup(tmp_path / "data", tmp_path / "to", silent).blobs == 3


def test_a_volume_that_is_not_mounted_empties_no_backup(tmp_path: Path) -> None:
    data, to = filled(tmp_path / "data"), tmp_path / "to"
    backup(data, to, silent)
    (data / "blobs").rename(tmp_path / "away")
    (data / "blobs").mkdir()
    with pytest.raises(StorageRefused, match="Mount the volume"):
        backup(data, to, silent)
    assert restore(to, tmp_path / "back", silent).blobs == 2


def test_folders_that_are_something_else_are_refused(tmp_path: Path) -> None:
    for name in ("data", "other"):
        filled(tmp_path / name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    for folder in ("mine", "other", "data"):
        with pytest.raises(StorageRefused, match="holds something else"):
            backup(tmp_path / "data", tmp_path / folder, silent)
    backup(tmp_path / "data", tmp_path / "to", silent)
    with pytest.raises(StorageRefused, match="backup of another node"):
        backup(tmp_path / "other", tmp_path / "to", silent)
    with pytest.raises(StorageRefused, match="holds something already"):
        restore(tmp_path / "to", tmp_path / "other", silent)
    with pytest.raises(StorageRefused, match="is no backup"):
        restore(tmp_path / "other", tmp_path / "new", silent)
    with pytest.raises(StorageRefused, match="does not exist"):
        backup(tmp_path / "nothing", tmp_path / "to2", silent)


def test_a_restore_does_not_replace_what_a_node_has_of_its_mesh(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    backup(tmp_path / "data", tmp_path / "to", silent)
    key = tmp_path / "new/mesh/client.key"
    key.parent.mkdir(parents=True)
    key.write_text("of a node that has joined already")
    with pytest.raises(StorageRefused, match=r"new/mesh has certificates or members"):
        restore(tmp_path / "to", tmp_path / "new", silent)
    assert key.read_text() == "of a node that has joined already"
    assert not (tmp_path / "new/catalogue.sqlite").exists()
    (tmp_path / "new/mesh").rename(tmp_path / "moved")
    assert restore(tmp_path / "to", tmp_path / "new", silent).ok


def test_the_meshs_keys_are_kept_and_open_invitations_are_not(tmp_path: Path) -> None:
    """A code that was used since must not come back with the backup."""
    filled(tmp_path / "data")
    mesh = tmp_path / "data/mesh"
    for name in ("members", "invitations"):
        (mesh / name).mkdir(parents=True)
    (mesh / "members/tokyo.yaml").write_text("x")
    (mesh / "invitations/abc.crt").write_text("x")
    (mesh / "client.key").write_text("secret")
    (mesh / "client.key").chmod(0o600)
    backup(tmp_path / "data", tmp_path / "to", silent)
    (mesh / "members/tokyo.yaml").unlink()
    backup(tmp_path / "data", tmp_path / "to", silent)
    restore(tmp_path / "to", tmp_path / "back", silent)
    kept = {str(p.relative_to(tmp_path / "back/mesh")) for p in (tmp_path / "back/mesh").rglob("*")}
    assert kept == {"members", "invitations", "client.key"}
    assert stat.S_IMODE((tmp_path / "back/mesh/client.key").stat().st_mode) == 0o600


def test_a_backup_that_breaks_off_keeps_the_former_keys(tmp_path: Path) -> None:
    key = filled(tmp_path / "data") / "mesh/client.key"
    key.parent.mkdir()
    key.write_text("former")
    backup(tmp_path / "data", tmp_path / "to", silent)
    key.write_text("new")
    (key.parent / "unreadable").symlink_to("nowhere")
    with pytest.raises(StorageRefused, match="not finished"):
        backup(tmp_path / "data", tmp_path / "to", silent)
    assert (tmp_path / "to/mesh/client.key").read_text() == "former"
    (key.parent / "unreadable").unlink()
    backup(tmp_path / "data", tmp_path / "to", silent)
    assert (tmp_path / "to/mesh/client.key").read_text() == "new"
