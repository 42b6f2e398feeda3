"""Mistakes in making bytes durable and in telling right ones from wrong ones."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_VOLUME = ("tests/storage/test_volume.py",)
_STORAGE = "federation/storage"
_ORDER = ("tests/faults/storage/test_order.py",)
_STORE = ("tests/contracts/store",)
_BACKUP = ("tests/storage/test_backup.py",)
_DAMAGE = ("tests/storage/test_damage.py",)

DURABILITY = [
    Mutant(
        "ingest-fdatasync",
        f"{_STORAGE}/ingest.py",
        "os.fdatasync(self._fd)",
        "os.fstat(self._fd)",
        _ORDER,
        "A streamed blob's bytes are not on the disk when its row is.",
    ),
    Mutant(
        "batch-fdatasync",
        f"{_STORAGE}/batch_files.py",
        "os.fdatasync(fd)",
        "os.fstat(fd)",
        _ORDER,
        "The bytes of a batch's files are not on the disk when their rows are.",
    ),
    Mutant(
        "folder-fsync",
        f"{_STORAGE}/catalogue/writer.py",
        "                self._spare.sync_folder(folder)",
        "                assert folder",
        _ORDER,
        "A blob's name is not on the disk when its row is.",
    ),
    Mutant(
        "folder-fsync-itself",
        f"{_STORAGE}/directory.py",
        "        os.fsync(fd)",
        "        os.fstat(fd)",
        _ORDER,
        "The same, where folders are made durable.",
    ),
    Mutant(
        "folder-after-commit",
        f"{_STORAGE}/catalogue/writer.py",
        """            for folder in transaction.folders:
                self._spare.sync_folder(folder)
            if transaction.totals.row() != before:
                write_totals(connection, transaction.totals)
            held_bytes = footprint.measure(connection, transaction.totals).held
            # Announced first, so that nobody believes an old value behind the commit: EntryChanges.
            if transaction.changes_entries and self._entry_changes is not None:
                self._entry_changes.announce(transaction)
            connection.execute("COMMIT")
""",
        """            if transaction.totals.row() != before:
                write_totals(connection, transaction.totals)
            held_bytes = footprint.measure(connection, transaction.totals).held
            # Announced first, so that nobody believes an old value behind the commit: EntryChanges.
            if transaction.changes_entries and self._entry_changes is not None:
                self._entry_changes.announce(transaction)
            connection.execute("COMMIT")
            for folder in transaction.folders:
                self._spare.sync_folder(folder)
""",
        _ORDER,
        "A power cut between the two leaves a row without its file.",
    ),
    Mutant(
        "wal-sync",
        f"{_STORAGE}/catalogue/schema.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = NORMAL",
        _ORDER,
        "A commit that was acknowledged is lost at a power cut.",
    ),
    Mutant(
        "ok-before-commit",
        f"{_STORAGE}/catalogue/writer.py",
        "                self._commit(connection, batch)\n",
        """                batch[0].loop.call_soon_threadsafe(self._settle, batch)
                self._commit(connection, batch)
""",
        ("tests/storage/test_writer.py", "tests/faults/storage/test_kill.py"),
        "The OK is out before anything is durable.",
    ),
    Mutant(
        "writes-after-failed-sync",
        f"{_STORAGE}/catalogue/writer.py",
        """        if isinstance(reason, StorageFailed):
            self.fail(str(reason))
""",
        """        if isinstance(reason, StorageFailed):
            _log.error("catalogue_write_failed", reason=str(reason))
""",
        ("tests/storage/test_writer.py", "tests/faults/storage/test_disk_errors.py"),
        "After a failed fsync the kernel calls pages written that it dropped.",
    ),
    Mutant(
        "one-failure-undoes-all",
        f"{_STORAGE}/catalogue/writer.py",
        """            transaction.connection.execute("ROLLBACK TO operation")
""",
        "",
        ("tests/storage/test_writer.py", "tests/storage/test_batch_files.py"),
        "Half of a refused operation is committed with the others.",
    ),
    Mutant(
        "totals-of-the-undone",
        f"{_STORAGE}/catalogue/writer.py",
        "            transaction.totals, transaction.grown_bytes = totals, grown_bytes\n",
        "            transaction.grown_bytes = grown_bytes\n",
        ("tests/storage/test_writer.py",),
        "What an undone operation counted stays counted.",
    ),
    Mutant(
        "ingest-hash",
        f"{_STORAGE}/ingest.py",
        "            self._is_right = found == self._digest.hash",
        "            self._is_right = bool(found)",
        _STORE,
        "A streamed upload of other bytes is stored under the digest.",
    ),
    Mutant(
        "ingest-size",
        f"{_STORAGE}/ingest.py",
        "        if end > self._digest.size_bytes:",
        "        if end > 2 * self._digest.size_bytes + 10:",
        (*_STORE, "tests/storage/test_at_once.py"),
        "More bytes than were reserved are taken.",
    ),
    Mutant(
        "ingest-hashed-not-stored",
        f"{_STORAGE}/ingest_steps.py",
        "        if ingest.received_bytes != ingest.digest.size_bytes:",
        "        if ingest.received_bytes > ingest.digest.size_bytes:",
        ("tests/storage/test_ingest.py",),
        "A file is named whose bytes were hashed and not all written.",
    ),
    Mutant(
        "batch-hash",
        f"{_STORAGE}/receiving.py",
        "elif hash_bytes(function, data) != wanted:",
        'elif hash_bytes(function, data) == b"":',
        _STORE,
        "Wrong bytes of the right size are stored.",
    ),
    Mutant(
        "batch-size",
        f"{_STORAGE}/receiving.py",
        "        if len(data) != size_bytes:",
        "        if len(data) < 0:",
        (*_STORE, "tests/services/test_batch.py"),
        "A digest with the right hash and a wrong size is stored.",
    ),
    Mutant(
        "inline-hash",
        f"{_STORAGE}/verification.py",
        "if len(data) != digest.size_bytes or hash_bytes(digest.function, data) != digest.hash:",
        "if len(data) != digest.size_bytes:",
        _DAMAGE,
        "Damage in the catalogue is served.",
    ),
    Mutant(
        "read-hash-of-stream",
        f"{_STORAGE}/streaming.py",
        "                if self._hasher.digest() != self._digest.hash:",
        "                if not self._hasher.digest():",
        _DAMAGE,
        "A large damaged file is streamed under an OK.",
    ),
    Mutant(
        "read-hash-of-file",
        f"{_STORAGE}/blob_files.py",
        "    if hasher.digest() != digest.hash:",
        "    if not hasher.digest():",
        (*_DAMAGE, "tests/storage/test_blob_files.py"),
        "A damaged file counts as verified.",
    ),
    Mutant(
        "read-trusts-changed-file",
        f"{_STORAGE}/verification.py",
        "return ctime_ns != row.ctime_ns or age_ms",
        "return age_ms",
        _DAMAGE,
        "A file that was written to since it was verified is trusted.",
    ),
    Mutant(
        "read-trusts-for-ever",
        f"{_STORAGE}/verification.py",
        "return ctime_ns != row.ctime_ns or age_ms > core.settings.verify_after * 1000",
        "return ctime_ns != row.ctime_ns or age_ms < 0",
        _DAMAGE,
        "Rot that no ctime shows is served for ever.",
    ),
    Mutant(
        "lost-file-blocks-upload",
        f"{_STORAGE}/publishing.py",
        """        if _is_whole(directory, digest, row):
            catalogue.renew(transaction, row, origin)
            return False
        catalogue.delete(transaction, row)
""",
        """        if row.inline or digest:
            catalogue.renew(transaction, row, origin)
            return False
        catalogue.delete(transaction, row)
""",
        ("tests/storage/test_damage.py", "tests/faults/storage/test_damage.py", *_STORE),
        "An upload of what vanished is answered OK, and stored nowhere.",
    ),
    Mutant(
        "stray-removed-under-a-row",
        f"{_STORAGE}/publishing.py",
        "        if named == path:",
        "        if not named:",
        ("tests/storage/test_batch_files.py", "tests/storage/test_at_once.py", "tests/storage"),
        "The sweep removes files that have rows.",
    ),
    Mutant(
        "stale-report",
        f"{_STORAGE}/quarantine.py",
        "row is None or row.seq != seq",
        "row is None",
        ("tests/storage/test_volume.py",),
        "A late report of damage takes away the good copy that was uploaded since.",
    ),
    Mutant(
        "epoch-at-quarantine",
        f"{_STORAGE}/context.py",
        """        if outcome is QuarantineOutcome.DONE:
            self.epoch.bump()
""",
        """        if outcome is QuarantineOutcome.DONE:
""",
        (*_DAMAGE, "tests/storage/test_hot.py", "tests/storage/test_known.py"),
        "Answers from memory go on about what was found damaged.",
    ),
    Mutant(
        "gone-on-a-volume-that-is-away",
        f"{_STORAGE}/volume.py",
        """            return
        self.check()
        if isinstance(damage, Gone):""",
        """            return
        if isinstance(damage, Gone):""",
        _VOLUME,
        "A volume that is not mounted makes all its blobs damaged.",
    ),
    Mutant(
        "gone-for-a-moment",
        f"{_STORAGE}/volume.py",
        """            else:
                raise SourceUnavailable("blobs/", "its volume was away a moment ago")
""",
        "",
        _VOLUME,
        "A volume that comes back between two looks has lost the blobs asked for meanwhile.",
    ),
    Mutant(
        "sweep-of-a-volume-in-doubt",
        f"{_STORAGE}/upkeep/discarding.py",
        """        directory.volume.check_certain()
""",
        "",
        ("tests/storage/test_volume.py",),
        "Between the look and the removal the volume may have changed.",
    ),
    Mutant(
        "breaker-always-believes",
        f"{_STORAGE}/breaker.py",
        "if not self.trouble and len(found) < most:",
        "if not self.trouble:",
        _VOLUME,
        "A disk that fails as a whole has all its blobs set aside.",
    ),
    Mutant(
        "placed-on-another-volume",
        f"{_STORAGE}/publishing.py",
        "    directory.volume.check_quickly()\n",
        "",
        _VOLUME,
        "What is acknowledged lies below the mount point, and is gone when the volume is back.",
    ),
    Mutant(
        "unread-is-removed-for-room",
        f"{_STORAGE}/quarantine.py",
        "if one.is_proven and _remove(",
        "if _remove(",
        _VOLUME,
        "A file that may be right is removed to keep one that is wrong.",
    ),
    Mutant(
        "log-not-begun-anew",
        f"{_STORAGE}/opening.py",
        "        if alone or epoch.is_log_in_doubt:",
        "        if epoch.is_log_in_doubt:",
        ("tests/storage/test_log_doubt.py",),
        "Rows behind frames that never reached the disk are lost at the next power cut.",
    ),
    Mutant(
        "log-in-doubt-not-settled",
        f"{_STORAGE}/opening.py",
        "        if alone or epoch.is_log_in_doubt:",
        "        if alone:",
        ("tests/storage/test_log_doubt.py",),
        "A process that failed and still reads keeps frames in the log that are not on the disk.",
    ),
    Mutant(
        "syncs-in-the-threads-of-reads",
        f"{_STORAGE}/ingest.py",
        "self._core.writes.run(self._write, data, self._hasher, seals)",
        "self._core.reads.run(self._write, data, self._hasher, seals)",
        ("tests/storage/test_pools.py",),
        "Uploads that wait for the disk stop every read.",
    ),
    Mutant(
        "quarantine-forgets",
        f"{_STORAGE}/quarantine.py",
        "    lost.add(transaction, row, str(damage))\n",
        "    assert lost\n",
        ("tests/storage/test_lost.py",),
        "Nobody fetches again what was set aside.",
    ),
    Mutant(
        "backup-not-verified",
        f"{_STORAGE}/admin/backup.py",
        "                if hasher.digest() != digest.hash:",
        "                if not hasher.digest():",
        _BACKUP,
        "A damaged blob replaces nothing, and nobody learns that the backup lacks it.",
    ),
    Mutant(
        "backup-names-what-it-lacks",
        f"{_STORAGE}/admin/backup.py",
        "                _delete(copy, lost)",
        "                assert lost",
        _BACKUP,
        "A restored node promises blobs that it does not have.",
    ),
]
