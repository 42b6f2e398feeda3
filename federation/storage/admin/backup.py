"""Copies a data directory, while nodes serve it, into a folder that is a data directory itself.

The catalogue is copied as of one moment, then the files of all blobs in that copy. Files never
change, so those that an earlier backup has are left alone. The new catalogue gets its name when
everything it names is durable; until then the folder is the earlier backup, and only afterwards
files that nothing names any more are removed. Blobs that were evicted or damaged meanwhile are
taken out of the copy, which never names what it does not have.

Restoring is the same copy in the other direction, into a directory that holds nothing yet.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from federation.core.digest import Digest, new_hasher
from federation.core.errors import FederationError, StorageRefused
from federation.storage import blob_files
from federation.storage.admin.common import existing, reading, unserved
from federation.storage.blob_files import Damage, Gone
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import schema
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import (
    VOLUME_ID,
    Transaction,
    get_meta,
    read_totals,
    write_totals,
)
from federation.storage.contract import Progress
from federation.storage.directory import DataDirectory, parse_blob_name, sync_folder
from federation.storage.opening import check_volume_is_there
from federation.storage.reports import BackupReport
from federation.storage.shared_memory import FileLock
from federation.storage.verification import check_inline

_MARK = "backup.json"  # in a backup: whose it is
_MESH = "mesh"
_MESH_COPY = "mesh.unfinished"
_NOT_KEPT = "invitations"  # in the mesh's folder: a code that was used must not come back
_SLICE = 500
_PIECE_BYTES = 2**20
_SQL_KEYS = "SELECT key FROM blob WHERE key > ? ORDER BY key LIMIT ?"


def backup(data_dir: Path, to: Path, progress: Progress) -> BackupReport:
    """Bring the backup in folder `to` up to date, or begin one there. Blocks.

    Raises StorageRefused: `to` is something else, or a file system refused.
    """
    source, target = existing(data_dir), DataDirectory(to)
    with _refusals("backup"):
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(to / "backup.lock")
        if not lock.acquire():
            raise StorageRefused(f"another backup to {to} is running")
        try:
            with reading(source) as connection:
                _check_version(connection)
                node_id = str(get_meta(connection, "node_id"))
                _check_target(target, node_id)
                (to / _MARK).write_text(json.dumps({"node-id": node_id}) + "\n")
                return _Copy(source, target, progress).run(connection)
        finally:
            lock.release()


def restore(backed_up: Path, data_dir: Path, progress: Progress) -> BackupReport:
    """Copy a backup into a data directory that holds nothing. Blocks.

    The directory has the id of the one that was backed up, and begins a new change log epoch.
    Raises StorageRefused.
    """
    source, target = existing(backed_up), DataDirectory(data_dir)
    with _refusals("restore"):
        if not (backed_up / _MARK).exists():
            raise StorageRefused(f"{backed_up} is no backup: it has no {_MARK}")
        target.prepare_root()
        if target.catalogue.exists() or target.has_blob_files():
            raise StorageRefused(f"{data_dir} holds something already: restore into another folder")
        if any(target.mesh.glob("*")):
            raise StorageRefused(
                f"{target.mesh} has certificates or members, which the backup would replace: move "
                "it away, or restore into another folder"
            )
        with reading(source) as connection, unserved(target):
            _check_version(connection)
            return _Copy(source, target, progress).run(connection)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except StorageRefused:
        raise
    except (OSError, FederationError, *UNREADABLE) as error:
        raise StorageRefused(f"the {what} was not finished: {error}") from error


def _check_version(connection: apsw.Connection) -> None:
    version = schema.stored_version(connection)
    if version != schema.VERSION:
        raise StorageRefused(
            f"the catalogue has schema version {version}, this program uses {schema.VERSION}: use "
            "the program version that wrote it"
        )


def _check_target(target: DataDirectory, node_id: str) -> None:
    mark = target.root / _MARK
    if mark.exists():
        try:
            known = json.loads(mark.read_text()).get("node-id")
        except (ValueError, AttributeError):
            known = None
        if known != node_id:
            raise StorageRefused(f"{target.root} is the backup of another node ({known})")
        return
    if target.catalogue.exists() or {p.name for p in target.root.iterdir()} - {"backup.lock"}:
        raise StorageRefused(f"{target.root} holds something else: give an empty folder")


@dataclass(slots=True)
class _Copy:
    """One copy from a directory to another."""

    source: DataDirectory
    target: DataDirectory
    progress: Progress

    def run(self, connection: apsw.Connection) -> BackupReport:
        """Copy everything; connection: to the source's catalogue."""
        target = self.target
        check_volume_is_there(self.source)
        target.prepare()
        unfinished = target.root / "catalogue.unfinished"
        # The catalogue first: files never change, so those of its rows can only vanish, which is
        # noticed.
        schema.copy_to(connection, unfinished)
        copy = apsw.Connection(str(unfinished))
        try:
            report = self._copy_blobs(copy)
            volume_id = get_meta(copy, VOLUME_ID)
        finally:
            copy.close()
        check_volume_is_there(self.source)  # else its blobs would look evicted
        # The copied catalogue names its volume, and a backup is a data directory that has to open.
        if volume_id is not None and target.volume.marker() != volume_id:
            target.volume.make_marker(str(volume_id))
        self._copy_mesh()
        for folder in target.blobs.iterdir():
            if folder.is_dir():
                sync_folder(folder)
        _sync(unfinished)
        for beside in ("-wal", "-shm"):  # of a node that has served the backup
            Path(f"{target.catalogue}{beside}").unlink(missing_ok=True)
        # Beside the catalogue's rename, so that both are of the same backup but for this moment.
        self._put_mesh()
        unfinished.replace(target.catalogue)
        sync_folder(target.root)
        # Only now: until the new catalogue has its name, the earlier backup needs these.
        self._remove_others(report)
        return report

    def _copy_blobs(self, copy: apsw.Connection) -> BackupReport:
        """Copy the files of all rows; take rows out of the copy whose bytes cannot be had."""
        report = BackupReport()
        # Checked before the earlier backup is touched: a damaged catalogue must not replace a good
        # one.
        if (line := copy.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise StorageRefused(
                f"the catalogue is damaged ({line}): `federation verify` says more"
            )
        total = read_totals(copy).blobs
        after = b""
        while keys := _keys_after(copy, after):
            lost: list[BlobRow] = []
            for row, data in catalogue.read_rows(copy, keys).values():
                if not self._have(row, data, report):
                    lost.append(row)
            if lost:
                _delete(copy, lost)
            after = keys[-1]
            self.progress(min(report.seen, total), total)
        return report

    def _have(self, row: BlobRow, data: bytes | None, report: BackupReport) -> bool:
        """Copy one blob unless it is there; return whether the target has it, verified."""
        digest = catalogue.digest_of_key(row.key, row.size_bytes)
        report.seen += 1
        try:
            if data is not None:
                check_inline(digest, data)
            elif self._is_there(self.target.blob_path(digest), row.size_bytes):
                report.kept_files += 1
            else:
                self._copy_file(self.source.blob_path(digest), self.target.blob_path(digest), row)
                report.copied_files += 1
                report.copied_bytes += row.size_bytes
        except Gone:
            report.evicted_blobs += 1
            return False
        except Damage:
            report.damaged_blobs += 1
            return False
        report.blobs += 1
        report.size_bytes += row.size_bytes
        return True

    def _is_there(self, path: str, size_bytes: int) -> bool:
        try:
            return os.stat(path).st_size == size_bytes  # it has been verified when it was copied
        except FileNotFoundError:
            return False

    def _copy_file(self, source: str, target: str, row: BlobRow) -> None:
        """Copy and verify a file, and give it its name once it is durable."""
        digest = catalogue.digest_of_key(row.key, row.size_bytes)
        hasher = new_hasher(digest.function)
        unfinished = str(self.target.incoming / f"backup-{os.getpid()}")
        with blob_files.open_blob(source, row.size_bytes) as blob:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                offset = 0
                while offset < row.size_bytes:
                    size = min(_PIECE_BYTES, row.size_bytes - offset)
                    piece = blob_files.read_exactly(blob.fd, size, offset)
                    hasher.update(piece)
                    blob_files.write_whole(fd, piece)
                    offset += size
                if hasher.digest() != digest.hash:
                    raise Damage("does not match its digest")
                # A file with its final name counts as verified by later backups, so it must be
                # whole.
                os.fdatasync(fd)
                os.rename(unfinished, target)
            finally:
                os.close(fd)
                Path(unfinished).unlink(missing_ok=True)

    def _copy_mesh(self) -> None:
        """Copy certificates, keys and members of the mesh durably, but no invitations.

        The copy lies beside what the target has of an earlier backup, until _put_mesh.
        """
        source, copy = self.source.root / _MESH, self.target.root / _MESH_COPY
        if copy.exists():  # of a backup that was broken off
            shutil.rmtree(copy)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(_NOT_KEPT, ".*"))
            (copy / _NOT_KEPT).mkdir(mode=0o700)
            for path in (*copy.rglob("*"), copy):
                _sync(path)

    def _put_mesh(self) -> None:
        """Replace what the target has by the copy; by nothing, if the source is in no mesh."""
        target, copy = self.target.root / _MESH, self.target.root / _MESH_COPY
        if target.exists():
            shutil.rmtree(target)
        if copy.exists():
            copy.rename(target)

    def _remove_others(self, report: BackupReport) -> None:
        """Remove the files that the new catalogue does not name."""
        connection = schema.connect(self.target.catalogue, read_only=True)
        try:
            for file in self.target.blob_files():
                digest = parse_blob_name(file.name)
                if digest is not None and not _names(connection, digest):
                    os.unlink(file.path)
                    report.removed_files += 1
        finally:
            connection.close()


def _names(connection: apsw.Connection, digest: Digest) -> bool:
    row = catalogue.look_up(connection, [catalogue.key_of(digest)]).get(catalogue.key_of(digest))
    return row is not None and not row.inline


def _keys_after(copy: apsw.Connection, after: bytes) -> list[bytes]:
    rows: Any = copy.execute(_SQL_KEYS, (after, _SLICE)).fetchall()
    return [key for (key,) in rows]


def _delete(copy: apsw.Connection, rows: list[BlobRow]) -> None:
    """Take rows out of a catalogue that nobody else uses."""
    with schema.writing(copy):
        transaction = Transaction(copy, 1, 0.0, read_totals(copy), 2**62, "")
        for row in rows:
            catalogue.delete(transaction, row)
        write_totals(copy, transaction.totals)


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable (fsync)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
