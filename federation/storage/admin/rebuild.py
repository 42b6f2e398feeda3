"""A new catalogue from the blob files, and from the old one as far as it can be read.

Every file is hashed before it gets a row; what does not match goes to quarantine/. The new
catalogue is complete and durable before it takes the old one's name, so an interrupted rebuild
changes nothing and can simply be run again.

The change log begins anew, under another epoch. What peers had acknowledged of the old one says
nothing about the rows of the new, so each peer has to be compared with what is held here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw

from federation.config import model
from federation.core.clock import SystemClock
from federation.core.digest import Digest
from federation.core.errors import StorageRefused, TooBusy
from federation.core.store import FROM_CLIENT, Provenance
from federation.storage import blob_files
from federation.storage.admin.common import existing, unserved
from federation.storage.admin.salvage import Salvage, salvage
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import entries, peer_records, schema
from federation.storage.catalogue.transaction import Totals, Transaction, set_meta, write_totals
from federation.storage.contract import Progress
from federation.storage.directory import DataDirectory, parse_blob_name, sync_folder
from federation.storage.offline_switch import OFFLINE_SINCE
from federation.storage.opening import adopt_volume
from federation.storage.reports import RebuildReport
from federation.storage.verification import check_inline

_COMMIT_EVERY = 2000


def rebuild(data_dir: Path, settings: model.StorageConfig, progress: Progress) -> RebuildReport:
    """Make the catalogue anew. Blocks. Raises StorageRefused (a node serves the directory)."""
    del settings  # a rebuilt catalogue may exceed the quota; the node evicts when it starts
    directory = existing(data_dir)
    schema.check_library()
    directory.prepare()
    with unserved(directory):
        try:
            return _Rebuild(directory, progress).run()
        except (apsw.Error, OSError, TooBusy) as error:
            raise StorageRefused(f"rebuild stopped, nothing is changed: {error}") from error


class _Rebuild:
    def __init__(self, directory: DataDirectory, progress: Progress) -> None:
        self._directory = directory
        self._progress = progress
        self._new = directory.catalogue.with_name("catalogue.new.sqlite")
        self._old = directory.old_catalogue
        self.report = RebuildReport()

    def run(self) -> RebuildReport:
        _remove(self._new)
        connection = schema.connect(self._new)
        connection.execute("PRAGMA synchronous = OFF")  # made durable in one go at the end
        schema.bring_up(connection)
        adopt_volume(connection, self._directory)  # whatever lies there is what it is about now
        clock = SystemClock()
        source = next((p for p in (self._directory.catalogue, self._old) if _has_content(p)), None)
        self._saved = salvage(source) if source is not None else None
        self._transaction = Transaction(
            connection, 1, clock.wall_s(), Totals(), quota_bytes=2**62, node_id=""
        )
        connection.execute("BEGIN")
        self._take_files()
        if self._saved is not None:
            self._take_old(self._saved)
        self._commit()
        connection.close()
        self._swap()
        return self.report

    def _commit(self) -> None:
        write_totals(self._transaction.connection, self._transaction.totals)
        self._transaction.connection.execute("COMMIT")

    def _step(self, done: int) -> None:
        if done % _COMMIT_EVERY == 0:
            self._commit()
            self._transaction.connection.execute("BEGIN")

    def _take_files(self) -> None:
        total = sum(1 for _ in self._directory.blob_files())
        for done, file in enumerate(list(self._directory.blob_files()), start=1):
            self._take_file(file.path, file.name)
            self._step(done)
            self._progress(done, total)

    def _take_file(self, path: str, name: str) -> None:
        digest = parse_blob_name(name)
        try:
            if digest is None or self._directory.blob_path(digest) != path:
                raise Damage("is not named as a blob")
            ctime_ns = blob_files.verify_path(path, digest)
        except Damage:
            os.rename(path, self._directory.quarantine / f"{name}.rebuild")
            self.report.damaged_files += 1
            return
        key = catalogue.key_of(digest)
        came = self._came(key)
        self._transaction.now_ms = self._used_ms(key)
        catalogue.insert(self._transaction, key, digest.size_bytes, None, ctime_ns, came)
        self.report.files += 1
        self.report.file_bytes += digest.size_bytes

    def _came(self, key: bytes) -> Provenance:
        """Return who sent a blob, where the old catalogue still tells."""
        return FROM_CLIENT if self._saved is None else self._saved.provenance(key)

    def _used_ms(self, key: bytes) -> int:
        """Return when it was last used: so it keeps its place in the order of eviction."""
        return 1 if self._saved is None else self._saved.used_ms(key)

    def _take_old(self, saved: Salvage) -> None:
        """Save small blobs, index entries, peers, node id and offline switch from the old one."""
        now_s = self._transaction.wall_s
        for number, (digest, data) in enumerate(saved.inline(), start=1):
            self._take_inline(digest, data)
            self._step(number)
        for number, (entry, used_ms) in enumerate(saved.entries(now_s), start=1):
            self._transaction.now_ms = used_ms
            self._transaction.wall_s = entry.stored_at_s  # its age stays what it was
            entries.restore(self._transaction, entry)
            self.report.entries += 1
            self._step(number)
        self._transaction.wall_s = now_s
        self._transaction.observe(saved.last_stamp(now_s))
        peers = list(saved.peers())
        peer_records.save(self._transaction, peers)
        self.report.peers = len({record.name for record in peers})
        for name in ("node_id", OFFLINE_SINCE):
            set_meta(self._transaction, name, saved.meta(name))
        self.report.old_catalogue = saved.verdict()
        saved.close()

    def _take_inline(self, digest: Digest, data: bytes) -> None:
        key = catalogue.key_of(digest)
        try:
            check_inline(digest, data)
        except Damage:
            return
        if key not in catalogue.look_up(self._transaction.connection, [key]):
            self._transaction.now_ms = self._used_ms(key)
            catalogue.insert(self._transaction, key, len(data), data, 0, self._came(key))
            self.report.inline_blobs += 1

    def _swap(self) -> None:
        """Give the new catalogue the old one's name; the old one stays beside it."""
        fd = os.open(self._new, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        catalogue_path = self._directory.catalogue
        if _has_content(catalogue_path):
            _remove(self._old)
            self._keep_old(catalogue_path)
            catalogue_path.unlink()
            sync_folder(self._directory.root)
        Path(f"{catalogue_path}-shm").unlink(missing_ok=True)
        Path(f"{catalogue_path}-wal").unlink(missing_ok=True)
        sync_folder(self._directory.root)
        self._new.rename(catalogue_path)
        sync_folder(self._directory.root)

    def _keep_old(self, catalogue_path: Path) -> None:
        """Give the old catalogue and its write-ahead log a second name, the log's first.

        A catalogue without its log lacks rows, and a log beside another catalogue ruins that one.
        So neither loses its name before both have another, and the log's goes before the new
        catalogue comes: a crash in between leaves no catalogue, or the old one whole.
        """
        for suffix in ("-wal", ""):
            source, target = Path(f"{catalogue_path}{suffix}"), Path(f"{self._old}{suffix}")
            if not source.exists():
                continue
            try:
                target.hardlink_to(source)
            except OSError:  # a file system without links
                shutil.copy2(source, target)
                with target.open("rb") as copy:
                    os.fsync(copy.fileno())
        sync_folder(self._directory.root)


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
