"""A role that one process on a data directory has: the holder of a lock file."""

from __future__ import annotations

from pathlib import Path

from federation.storage.directory import disk_errors_named
from federation.storage.shared_memory import FileLock


class FileRole:
    """See federation.core.sole_role.SoleRole. A kernel lock is not lost while the process lives."""

    def __init__(self, path: Path) -> None:
        """path: of the lock file."""
        self._path = path
        self._lock = FileLock(path)

    def __repr__(self) -> str:
        return f"<FileRole {self._path.name} {'held' if self._lock.held else 'free'}>"

    def try_to_lead(self) -> bool:
        """See SoleRole."""
        with disk_errors_named(f"taking {self._path.name}"):
            return self._lock.acquire()

    def holds_lead(self) -> bool:
        """See SoleRole."""
        return self._lock.held

    def close(self) -> None:
        """Let another process lead."""
        self._lock.release()
