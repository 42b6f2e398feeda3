"""Opens a data directory, and checks first that program, catalogue and volume fit together.

All processes open a directory under one lock, so that creating it, migrating it and detecting
killed processes are never concurrent.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import structlog

from federation.core.clock import Clock
from federation.core.errors import StorageRefused
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import entry_changes, schema
from federation.storage.catalogue.transaction import (
    CATALOGUE_FILE,
    LOG_EPOCH,
    VOLUME_ID,
    get_meta,
    read_totals,
)
from federation.storage.directory import DataDirectory, sync_folder
from federation.storage.permissions import log_tightened, tighten
from federation.storage.processes import ProcessEntry, dead_runs, live_runs, remove_dead
from federation.storage.shared_memory import Epoch, FileLock, no_shared_memory
from federation.storage.timing import StoreClock, Timing, boot_id
from federation.storage.volume import MARKER

_log = structlog.get_logger(__name__)
# Where store time begins in a new directory. Objects from peers keep their age since the last use,
# so there must be room for such times before the present: ten years.
_BEGIN_MS = 10 * 365 * 86_400_000
_NO_SHARED_MEMORY = (apsw.SQLITE_IOERR_SHMMAP, apsw.SQLITE_IOERR_SHMOPEN)


class Opened(NamedTuple):
    """The result of opening a data directory."""

    directory: DataDirectory
    node_id: str
    log_epoch: str
    store_clock: StoreClock
    run: ProcessEntry
    epoch: Epoch


def open_directory(root: Path, clock: Clock, timing: Timing) -> Opened:
    """Create or check a data directory, and register this process in it. Blocks.

    Raises StorageRefused: the directory cannot be used; its catalogue is lost, damaged or written
    by a newer program; or running processes use an older schema version. The message says what to
    do. Nothing is changed then.
    """
    schema.check_library()
    directory = DataDirectory(root)
    directory.prepare_root()
    lock = FileLock(directory.open_lock)
    with _refusals_named(directory):
        try:
            lock.acquire(wait=True)
            check_catalogue_is_there(directory)
            check_volume_is_there(directory)
            directory.prepare()
            log_tightened(tighten(directory))
            opened = _join(directory, clock, timing)
            tighten(directory)  # also files just created, which have the user's umask
            return opened
        finally:
            lock.release()


def _join(directory: DataDirectory, clock: Clock, timing: Timing) -> Opened:
    epoch = Epoch(directory.epoch)
    try:
        return _join_with(directory, clock, timing, epoch)
    except BaseException:
        epoch.close()
        raise


def _join_with(directory: DataDirectory, clock: Clock, timing: Timing, epoch: Epoch) -> Opened:
    connection = schema.connect(directory.catalogue)
    try:
        # Under the open lock, so it stays true until this process is registered.
        alone = not live_runs(directory)
        if alone or epoch.is_log_in_doubt:
            _settle_log(connection, directory)
            epoch.doubt_log(is_in_doubt=False)
        _bring_up(connection, directory)
        adopt_volume(connection, directory)
        node_id, base_ms, rebooted = _identify(connection, clock)
        store_clock = StoreClock(clock, base_ms)
        # A power cut may also remove the traces of killed processes; a new boot id shows it.
        dead = dead_runs(directory)
        if dead or rebooted:
            hold_ms = store_clock.now_ms() + timing.lease_ms
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('evict_hold_until_ms', ?)", (hold_ms,)
            )
        if dead:
            epoch.bump()  # they may have set blobs aside without saying so
        # Behind the pause, which is durable by now: without it these traces are all that asks for
        # one.
        remove_dead(directory, dead)
        log_epoch = _open_log(connection, directory, epoch, alone=alone)
        if alone:
            entry_changes.settle(connection, epoch)
    finally:
        connection.close()
    return Opened(directory, node_id, log_epoch, store_clock, ProcessEntry(directory), epoch)


def _settle_log(connection: apsw.Connection, directory: DataDirectory) -> None:
    """Copy the write-ahead log into the catalogue durably, and truncate it (a checkpoint).

    After a failed write-back the kernel still shows data that never reached the disk. A killed
    process may leave such frames in the log; at the next power cut they would be lost together with
    all acknowledged rows after them. The checkpoint writes them again.

    A full disk does not prevent a start: reads are served, and eviction makes room.

    Raises StorageRefused, apsw.Error.
    """
    if schema.stored_version(connection) > schema.VERSION:
        return  # a newer program's catalogue, which is refused later
    try:
        row: Any = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except apsw.FullError as error:
        _log.warning("log_not_settled", reason=str(error))
        return
    if row[0]:
        raise StorageRefused(
            f"another program has been reading {directory.catalogue} for more than "
            f"{schema.BUSY_MS // 1000} s. Stop that program and start the node again."
        )


def check_catalogue_is_there(directory: DataDirectory) -> None:
    """Raise StorageRefused if there are blob files but no catalogue: it was lost."""
    try:
        present = directory.catalogue.stat().st_size > 0
    except FileNotFoundError:
        present = False
    was_rebuilt = directory.old_catalogue.exists()  # a rebuild was interrupted at its last step
    if not present and (was_rebuilt or directory.has_blob_files()):
        raise StorageRefused(
            f"{directory.catalogue} is missing or empty, but there are blob files beside it. "
            "Run `federation rebuild` to make a new catalogue from the files."
        )


def check_volume_is_there(directory: DataDirectory) -> None:
    """Check that blobs/ is the volume of this catalogue, and not an empty mount point.

    Raises StorageRefused (it is not), apsw.Error, OSError. Changes nothing.
    """
    if not directory.catalogue.exists():
        return  # a new data directory
    connection = schema.connect(directory.catalogue, read_only=True)
    try:
        # A start was cut off before the tables were made.
        if schema.stored_version(connection) == 0:
            return
        expected, found = get_meta(connection, VOLUME_ID), directory.volume.marker()
        if expected is None:  # written by an older program, which had no markers
            if directory.has_blob_files() or not _has_file_rows(connection):
                return
        elif found == expected:
            return
    finally:
        connection.close()
    seen = f"says {found}" if found else "is not there"
    wanted = f", not {expected}" if found else "" if expected else ", and neither is any blob"
    raise StorageRefused(
        f"{directory.blobs} does not contain this catalogue's blobs: its marker {MARKER} {seen}"
        f"{wanted}. Mount the volume that belongs there. If its blobs are lost, or blobs/ was "
        "replaced on purpose, run `federation rebuild`."
    )


def _has_file_rows(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM blob WHERE NOT inline LIMIT 1").fetchone() is not None


def adopt_volume(connection: apsw.Connection, directory: DataDirectory) -> None:
    """Write the same id to the volume's marker and the catalogue. Raises OSError, apsw.Error.

    The marker is written first: after a crash between the two, the next start adopts it.
    """
    volume_id = get_meta(connection, VOLUME_ID)
    if volume_id is None:
        volume_id = directory.volume.marker()
        if volume_id is None:
            volume_id = uuid.uuid4().hex
            directory.volume.make_marker(volume_id)
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (VOLUME_ID, volume_id))
    directory.volume.expect(str(volume_id))


def _bring_up(connection: apsw.Connection, directory: DataDirectory) -> None:
    found = schema.stored_version(connection)
    # Their statements were written for the tables as they are.
    users = [run for run in live_runs(directory) if found not in (0, schema.VERSION)]
    if users:
        pids = ", ".join(str(run.get("pid", run["id"])) for run in users)
        raise StorageRefused(
            f"{directory.catalogue} has schema version {found} and this program uses "
            f"{schema.VERSION}, but running processes (pid {pids}) still use version {found}. "
            "Stop them first."
        )
    if 0 < found < schema.VERSION:
        _keep_copy(connection, directory, found)
    schema.bring_up(connection)
    if found and not users and not live_runs(directory) and not schema.make_shrinkable(connection):
        _log.warning(
            "catalogue_keeps_its_size",
            reason="an older version created it, and it is too large to be rewritten at a start: "
            "its free pages are reused, but not given back to the disk",
            do="when convenient, stop the node and run `federation rebuild`",
        )


def _keep_copy(connection: apsw.Connection, directory: DataDirectory, version: int) -> None:
    """Copy the catalogue before its tables change, for whoever has to go back to the old program.

    There is one such copy; a later one replaces it. A disk without room for it prevents no start.
    """
    kept = directory.root / f"catalogue.version-{version}.sqlite"
    unfinished = kept.with_suffix(".unfinished")
    try:
        schema.copy_to(connection, unfinished)
        for old in directory.root.glob("catalogue.version-*.sqlite"):
            old.unlink()
        unfinished.replace(kept)
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError, OSError) as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)  # it may have taken the last room
        _log.warning("catalogue_not_copied", file=str(kept), reason=str(error))
        return
    sync_folder(directory.root)
    _log.info("catalogue_copied", file=str(kept), version=version)


def _identify(connection: apsw.Connection, clock: Clock) -> tuple[str, int, bool]:
    """Return the node id, the base of store time, and whether the machine was rebooted since.

    Creates the values that are missing or belong to an earlier boot.
    """
    with schema.writing(connection):
        rows: Any = connection.execute("SELECT name, value FROM meta").fetchall()
        meta: dict[str, Any] = dict(rows)
        rebooted = meta.get("boot_id", boot_id()) != boot_id()
        if "node_id" not in meta:
            meta["node_id"] = uuid.uuid4().hex
        if meta.get("boot_id") != boot_id():
            # Store time goes on from the latest use, whatever the new boot's clock says.
            newest = catalogue.newest_ms(connection) or _BEGIN_MS
            meta["boot_id"] = boot_id()
            meta["clock_base_ms"] = newest + 1 - int(clock.monotonic_s() * 1000)
        base_ms = _base_ms(meta)
        connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)",
            [(name, meta[name]) for name in ("node_id", "boot_id", "clock_base_ms")],
        )
    return str(meta["node_id"]), base_ms, rebooted


@schema.of_a_row
def _base_ms(meta: dict[str, Any]) -> int:
    return int(str(meta["clock_base_ms"]))


def _open_log(
    connection: apsw.Connection, directory: DataDirectory, epoch: Epoch, *, alone: bool
) -> str:
    """Return the change log's epoch.

    A new epoch begins if the catalogue is another file than before, or has fewer rows than
    processes have announced: it was restored from a backup or copied, so new rows will reuse
    numbers. Peers see the new epoch, and send again what is missing here.
    """
    seq = read_totals(connection).seq
    known: Any = get_meta(connection, LOG_EPOCH)
    inode, known_inode = directory.catalogue.stat().st_ino, get_meta(connection, CATALOGUE_FILE)
    is_copy = known_inode not in {None, inode}
    # Only alone: another process might be adding rows and announcing them at this moment.
    if alone and known is not None and (is_copy or epoch.head > seq):
        _log.warning("catalogue_put_back", rows=seq, rows_before=epoch.head, is_copy=is_copy)
        known = None
    if known is None:
        known = uuid.uuid4().hex
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (LOG_EPOCH, known))
    if alone and inode != known_inode:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (CATALOGUE_FILE, inode))
    if alone:
        epoch.set_head(seq)
        # They were told of the log as it was; the first who waits reads the records.
        epoch.forget_peers()
    return str(known)


@contextmanager
def _refusals_named(directory: DataDirectory) -> Iterator[None]:
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError) as error:
        raise StorageRefused(
            f"{directory.catalogue} is damaged ({error}). Make a copy of the data directory, then "
            "run `federation rebuild`, which verifies and keeps blobs in files."
        ) from error
    except (apsw.Error, OSError) as error:
        if getattr(error, "extendedresult", 0) in _NO_SHARED_MEMORY:
            raise no_shared_memory(directory.root, str(error)) from error
        raise StorageRefused(
            f"data directory {directory.root} cannot be opened: {error}. "
            "Check that the disk has room and that this user may write there."
        ) from error
