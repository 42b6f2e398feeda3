"""Operations on a data directory: see federation/storage/contract.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from federation.config.model import StorageConfig
from federation.core.pins import ClosureWalk, Pin, PinReport, PinsReport, PinTarget
from federation.core.purges import Purgeable, PurgeOutcome
from federation.core.replication_log import Parked
from federation.storage import admin
from federation.storage.admin.node_id import new_id
from federation.storage.contract import Explainer, Operations, Progress
from federation.storage.directory import DataDirectory
from federation.storage.processes import lock_path
from federation.storage.reports import (
    BackupReport,
    CollectReport,
    EntryMatch,
    EntrySelection,
    KnownPeer,
    NewId,
    RebuildReport,
    VerifyReport,
)


def send(data_dir: Path, run_id: str, pid: object, number: signal.Signals) -> str | None:
    """Signal a process that serves a data directory; return why that was impossible, or None.

    The node's user can write the files below run/, and the process they name may have ended. Root
    must not be tricked into signalling another process, so the process must have the run's lock
    file open.
    """
    # True is an int, and 0 and negative numbers name groups of processes.
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return f"its file contains {pid!r}, which is not a process id"
    try:
        if _signal(pid, lock_path(DataDirectory(data_dir), run_id), number):
            return None
    except PermissionError:
        return "this user may not signal it: run the command as the node's user or as root"
    except (FileNotFoundError, ProcessLookupError):
        return "it has just ended"
    except OSError as error:
        return f"process {pid} cannot be inspected: {error.strerror}"
    return f"process {pid}, named by its file, does not serve {data_dir}"


def _signal(pid: int, lock: Path, number: signal.Signals) -> bool:
    """Signal a process if it has this file open; return whether it has. Raises OSError."""
    handle = os.pidfd_open(pid)  # refers to this process even if its id is reused
    try:
        if not _has_open(pid, lock):
            return False
        signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
    return True


def _has_open(pid: int, file: Path) -> bool:
    """Return whether a process has this file open. Raises OSError (it ended, no permission)."""
    wanted = file.stat()
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            found = os.stat(f"{folder}/{name}")
        except FileNotFoundError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


class DirectoryOperations(Operations):
    """The operations on a data directory of the embedded engine."""

    def __init__(self, data_dir: Path, settings: StorageConfig) -> None:
        self._data_dir = data_dir
        self._settings = settings

    def __repr__(self) -> str:
        return f"<DirectoryOperations {self._data_dir}>"

    def processes(self) -> list[dict[str, Any]]:
        """See Operations."""
        return admin.processes(self._data_dir)

    def send_signal(self, process: Mapping[str, Any], number: signal.Signals) -> str | None:
        """See Operations."""
        return send(self._data_dir, process["id"], process["pid"], number)

    def summary(self) -> dict[str, Any]:
        """See Operations."""
        return admin.summary(self._data_dir, self._settings)

    def explaining(self) -> AbstractContextManager[Explainer]:
        """See Operations."""
        return admin.explaining(self._data_dir, self._settings)

    def verify(self, progress: Progress, *, repair: bool) -> VerifyReport:
        """See Operations."""
        return admin.verify(self._data_dir, self._settings, progress, repair=repair)

    def collect(self, progress: Progress, *, target_bytes: int | None) -> CollectReport:
        """See Operations."""
        return admin.collect(self._data_dir, self._settings, progress, target_bytes=target_bytes)

    def rebuild(self, progress: Progress) -> RebuildReport:
        """See Operations."""
        return admin.rebuild(self._data_dir, self._settings, progress)

    def backup(self, to: Path, progress: Progress) -> BackupReport:
        """See Operations."""
        return admin.backup(self._data_dir, to, progress)

    def restore(self, backed_up: Path, progress: Progress) -> BackupReport:
        """See Operations."""
        return admin.restore(backed_up, self._data_dir, progress)

    def new_id(self) -> NewId:
        """See Operations."""
        return new_id(self._data_dir)

    def peers(self) -> list[KnownPeer]:
        """See Operations."""
        return admin.known_peers(self._data_dir)

    def parked(self, peer: str | None, limit: int) -> Sequence[Parked]:
        """See Operations."""
        return admin.read_parked(self._data_dir, peer, limit)

    def retry_parked(self, peer: str | None) -> int:
        """See Operations."""
        return admin.ask_retry(self._data_dir, self._settings, peer)

    def reconcile(self, peer: str) -> None:
        """See Operations."""
        admin.ask_reconcile(self._data_dir, self._settings, peer)

    def drop_peer(self, peer: str) -> None:
        """See Operations."""
        admin.drop_peer(self._data_dir, self._settings, peer)

    def find_entries(self, wanted: EntrySelection) -> Iterator[EntryMatch]:
        """See Operations."""
        return admin.find_entries(self._data_dir, wanted)

    def purge(self, things: Sequence[tuple[Purgeable, str]], by: str) -> list[PurgeOutcome]:
        """See Operations."""
        return admin.purge(self._data_dir, self._settings, things, by)

    def pin(self, wanted: Pin, walk: ClosureWalk) -> PinReport:
        """See Operations."""
        return admin.pin(self._data_dir, self._settings, wanted, walk)

    def unpin(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """See Operations."""
        return admin.unpin(self._data_dir, self._settings, targets, by)

    def pins(self) -> PinsReport:
        """See Operations."""
        return admin.list_pins(self._data_dir, self._settings)

    def offline_since_s(self) -> int | None:
        """See Operations."""
        return admin.offline_since_s(self._data_dir)

    def turn_offline(self, *, on: bool) -> None:
        """See Operations."""
        admin.turn_offline(self._data_dir, self._settings, on=on)
