"""Opening a data directory: every check that keeps a wrong program or a lost file from harm.

All processes open under one lock, so that making, migrating and counting the dead happen alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import structlog

from federation.core.clock import Clock
from federation.core.errors import StorageRefused
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import schema
from federation.storage.catalogue.meta import CATALOGUE_FILE, LOG_EPOCH, get_meta
from federation.storage.catalogue.transaction import read_totals
from federation.storage.directory import DataDirectory
from federation.storage.permissions import tell_tightened, tighten
from federation.storage.processes import ProcessEntry, bury, dead_runs, live_runs
from federation.storage.shared_memory import Epoch, FileLock, no_shared_memory
from federation.storage.timing import StoreClock, Timing, boot_id

_log = structlog.get_logger(__name__)
_NO_SHARED_MEMORY = (apsw.SQLITE_IOERR_SHMMAP, apsw.SQLITE_IOERR_SHMOPEN)


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening found out and made."""

    directory: DataDirectory
    node_id: str
    log_epoch: str
    store_clock: StoreClock
    run: ProcessEntry
    epoch: Epoch


def open_directory(root: Path, clock: Clock, timing: Timing) -> Opened:
    """Make or check a data directory and join it. Blocks.

    Raises StorageRefused: it cannot be used, its catalogue is lost, damaged or newer, or an old
    one is in use by a running process; the message says what to do. Nothing is changed then.
    """
    schema.check_library()
    directory = DataDirectory(root)
    directory.prepare()
    lock = FileLock(directory.open_lock)
    with _refusals_named(directory):
        try:
            tell_tightened(tighten(directory))
            lock.acquire(wait=True)
            opened = _join(directory, clock, timing)
            tighten(directory)  # what a command has just made, with its user's umask
            return opened
        finally:
            lock.release()


def _join(directory: DataDirectory, clock: Clock, timing: Timing) -> Opened:
    check_catalogue_is_there(directory)
    connection = schema.connect(directory.catalogue)
    try:
        _bring_up(connection, directory)
        alone = not live_runs(directory)
        node_id, base_ms, rebooted = _identify(connection, clock)
        store_clock = StoreClock(clock, base_ms)
        # A power cut may take even the traces of the dead with it: then the new boot tells.
        dead = dead_runs(directory)
        if dead or rebooted:
            hold_ms = store_clock.now_ms() + timing.lease_ms
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('evict_hold_until_ms', ?)", (hold_ms,)
            )
        bury(directory, dead)
        epoch = Epoch(directory.epoch)
        try:
            log_epoch = _open_log(connection, directory, epoch, alone=alone)
        except BaseException:
            epoch.close()
            raise
    finally:
        connection.close()
    return Opened(directory, node_id, log_epoch, store_clock, ProcessEntry(directory), epoch)


def check_catalogue_is_there(directory: DataDirectory) -> None:
    """Refuse to start empty over blobs whose catalogue was lost."""
    try:
        present = directory.catalogue.stat().st_size > 0
    except FileNotFoundError:
        present = False
    if not present and directory.has_blob_files():
        raise StorageRefused(
            f"{directory.catalogue} is missing or empty, but there are blob files beside it. "
            "Run `federation rebuild` to make a new catalogue from the files."
        )


def _bring_up(connection: apsw.Connection, directory: DataDirectory) -> None:
    found = schema.stored_version(connection)
    users = [run for run in live_runs(directory) if found not in (0, schema.VERSION)]
    if users:
        pids = ", ".join(str(run.get("pid", run["id"])) for run in users)
        raise StorageRefused(
            f"the catalogue has schema version {found}, this program uses {schema.VERSION}, and "
            f"running processes (pid {pids}) still use the former. Stop them first."
        )
    schema.bring_up(connection)
    if found and not users and not live_runs(directory) and not schema.make_shrinkable(connection):
        _log.warning(
            "catalogue_keeps_its_size",
            reason="it was made by an older version and is too large to be written anew at a "
            "start: its free pages are used again, but not given back to the disk",
            do="stop the node and run `federation rebuild` when that suits",
        )


def _identify(connection: apsw.Connection, clock: Clock) -> tuple[str, int, bool]:
    """Return this node's id, the base of store time, and whether the machine was started since.

    Makes what is not there or not valid.
    """
    with schema.writing(connection):
        rows: Any = connection.execute("SELECT name, value FROM meta").fetchall()
        meta: dict[str, Any] = dict(rows)
        rebooted = meta.get("boot_id", boot_id()) != boot_id()
        if "node_id" not in meta:
            meta["node_id"] = uuid.uuid4().hex
        if meta.get("boot_id") != boot_id():
            newest = catalogue.newest_ms(connection)
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

    A new one begins where the catalogue is another file than before, or knows fewer rows than
    processes told of: somebody put a backup back (or made a copy), and new rows will get numbers
    that others had. Peers see the new epoch, and send what is missing here now.
    """
    seq = read_totals(connection).seq
    known: Any = get_meta(connection, LOG_EPOCH)
    inode, known_inode = directory.catalogue.stat().st_ino, get_meta(connection, CATALOGUE_FILE)
    is_copy = known_inode not in {None, inode}
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
        epoch.forget_peers()
    return str(known)


@contextmanager
def _refusals_named(directory: DataDirectory) -> Iterator[None]:
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError) as error:
        raise StorageRefused(
            f"{directory.catalogue} is damaged ({error}). Keep a copy of the data directory, then "
            "run `federation rebuild`; blobs in files are verified and kept."
        ) from error
    except (apsw.Error, OSError) as error:
        if getattr(error, "extendedresult", 0) in _NO_SHARED_MEMORY:
            raise no_shared_memory(directory.root, str(error)) from error
        raise StorageRefused(
            f"data directory {directory.root} cannot be opened: {error}. "
            "Check that the disk has room and that this user may write there."
        ) from error
