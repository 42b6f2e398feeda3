"""Makes a new catalogue from the blob files, and from what can be read of the old catalogue.

Every file is hashed before it gets a row; files that do not match go to quarantine/. The new
catalogue is complete and durable before it gets the old one's name, so an interrupted rebuild
changes nothing and can be run again.

The change log begins anew under another epoch. What peers acknowledged of the old log says nothing
about the rows of the new one, so each peer needs a reconcile.
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
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.storage import blob_files
from federation.storage.admin.common import existing, unserved
from federation.storage.admin.salvage import Salvage, salvage
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import (
    ended_keepings,
    entries,
    peer_records,
    pins,
    purges,
    schema,
)
from federation.storage.catalogue.transaction import Totals, Transaction, set_meta, write_totals
from federation.storage.contract import Progress
from federation.storage.directory import DataDirectory, parse_blob_name, sync_folder
from federation.storage.offline_switch import OFFLINE_SINCE
from federation.storage.opening import adopt_volume
from federation.storage.reports import RebuildReport
from federation.storage.verification import check_inline

_MATCHED_AT_ONCE = 1000  # entries, with pins
_COMMIT_EVERY = 2000


def rebuild(data_dir: Path, settings: model.StorageConfig, progress: Progress) -> RebuildReport:
    """Make a new catalogue. Blocks.

    Raises StorageRefused: a node serves the directory, or the disk refused something.
    """
    del settings  # a rebuilt catalogue may exceed the quota; the node evicts when it starts
    directory = existing(data_dir)
    schema.check_library()
    directory.prepare()
    with unserved(directory):
        try:
            return _Rebuild(directory, progress).run()
        except (apsw.Error, OSError, TooBusy) as error:
            raise StorageRefused(f"rebuild failed, nothing was changed: {error}") from error


class _Rebuild:
    def __init__(self, directory: DataDirectory, progress: Progress) -> None:
        self._directory = directory
        self._progress = progress
        self._new = directory.catalogue.with_name("catalogue.new.sqlite")
        self._old = directory.old_catalogue
        self.report = RebuildReport()

    def run(self) -> RebuildReport:
        # What an interrupted rebuild has left.
        _remove(self._new)
        connection = schema.connect(self._new)
        connection.execute("PRAGMA synchronous = OFF")  # _swap makes it durable at the end
        schema.bring_up(connection)
        adopt_volume(connection, self._directory)  # the volume that is mounted now is the right one
        clock = SystemClock()
        # The second, if an earlier rebuild ended at its last step.
        source = next((p for p in (self._directory.catalogue, self._old) if _has_content(p)), None)
        self._saved = salvage(source) if source is not None else None
        self._transaction = Transaction(
            connection, 1, clock.wall_s(), Totals(), quota_bytes=2**62, node_id=""
        )
        connection.execute("BEGIN")
        # Files first: what is a file already is not taken from the old catalogue once more.
        self._add_files()
        if self._saved is not None:
            self._add_saved(self._saved)
        self._commit()
        connection.close()
        self._swap()
        return self.report

    def _commit(self) -> None:
        write_totals(self._transaction.connection, self._transaction.totals)
        self._transaction.connection.execute("COMMIT")
        self._transaction.changed_entries.clear()  # nobody caches anything of this catalogue

    def _step(self, done: int) -> None:
        if done % _COMMIT_EVERY == 0:
            self._commit()
            self._transaction.connection.execute("BEGIN")

    def _add_files(self) -> None:
        total = sum(1 for _ in self._directory.blob_files())
        for done, file in enumerate(list(self._directory.blob_files()), start=1):
            self._add_file(file.path, file.name)
            self._step(done)
            self._progress(done, total)

    def _add_file(self, path: str, name: str) -> None:
        digest = parse_blob_name(name)
        try:
            if digest is None or self._directory.blob_path(digest) != path:
                raise Damage("does not have the name of a blob")
            ctime_ns = blob_files.verify_path(path, digest)
        except Damage:
            os.rename(path, self._directory.quarantine / f"{name}.rebuild")
            self.report.damaged_files += 1
            return
        key = catalogue.key_of(digest)
        provenance = self._provenance(key)
        self._transaction.now_ms = self._used_ms(key)
        catalogue.insert(self._transaction, key, digest.size_bytes, None, ctime_ns, provenance)
        self._hold(key)
        self.report.files += 1
        self.report.file_bytes += digest.size_bytes

    def _provenance(self, key: bytes) -> Provenance:
        """Return who sent a blob, as far as the old catalogue can be read; else a client."""
        return FROM_CLIENT if self._saved is None else self._saved.provenance(key)

    def _used_ms(self, key: bytes) -> int:
        """Return when a blob was last used, so that it keeps its place in the eviction order."""
        return 1 if self._saved is None else self._saved.used_ms(key)

    def _add_saved(self, saved: Salvage) -> None:
        """Copy inline blobs, index entries, peers, node id and offline switch from the old one."""
        now_s = self._transaction.wall_s
        for number, (digest, data) in enumerate(saved.inline(), start=1):
            self._add_inline(digest, data)
            self._step(number)
        for number, (entry, used_ms) in enumerate(saved.entries(now_s), start=1):
            self._transaction.now_ms = used_ms
            self._transaction.wall_s = entry.stored_at_s  # the entry keeps its age
            entries.restore(self._transaction, entry)
            self.report.entries += 1
            self._step(number)
        self._transaction.wall_s = now_s
        for purge, used_ms in saved.purges(now_s):
            self._transaction.now_ms = used_ms
            purges.store(self._transaction, purge)
        self._add_pins(saved, now_s)
        self._transaction.observe(saved.last_stamp(now_s))
        peers = list(saved.peers())
        peer_records.save(self._transaction, peers)
        self.report.peers = len({record.name for record in peers})
        for name in ("node_id", OFFLINE_SINCE):
            set_meta(self._transaction, name, saved.meta(name))
        self.report.old_catalogue = saved.verdict()
        saved.close()

    def _add_pins(self, saved: Salvage, now_s: float) -> None:
        """Copy pins, and keep what they match until a node has looked for all that this names."""
        found = list(saved.pins(now_s))
        for pin in found:
            pins.store(self._transaction, pin)
        matchers = [pin.target.matcher() for pin in found if not pin.is_removed]
        connection, after = self._transaction.connection, 0
        while matchers and (page := pins.candidates(connection, after, _MATCHED_AT_ONCE)):
            after = page[-1].id
            kept = [e.id for e in page if any(matches(e.key, e.label) for matches in matchers)]
            ended_keepings.hold_entries(self._transaction, kept)

    def _hold(self, key: bytes) -> None:
        """Keep a blob that a pin has kept before."""
        if self._saved is not None and self._saved.was_kept(key):
            ended_keepings.hold_blob(self._transaction, key)

    def _add_inline(self, digest: Digest, data: bytes) -> None:
        key = catalogue.key_of(digest)
        try:
            check_inline(digest, data)
        except Damage:
            return
        if key not in catalogue.look_up(self._transaction.connection, [key]):
            self._transaction.now_ms = self._used_ms(key)
            catalogue.insert(self._transaction, key, len(data), data, 0, self._provenance(key))
            self._hold(key)
            self.report.inline_blobs += 1

    def _swap(self) -> None:
        """Give the new catalogue the old one's name, and keep the old one under another name."""
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
        """Give the old catalogue and its write-ahead log a second name, the log first.

        A catalogue without its log lacks rows, and a log beside another catalogue damages that one.
        So neither loses its name before both have a second one, and the log's first name is removed
        before the new catalogue gets its name. A crash in between leaves either no catalogue, or
        the old one with its log.
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
