"""Which processes serve a data directory, and which of them were killed.

Each process holds a lock on run/ID.lock as long as it lives and, once it serves, publishes its
addresses in run/ID.json. A lock file that can be locked belongs to a process that was killed: its
leases that were not written yet are unknown, so eviction pauses for one lease period.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from federation.storage.directory import DataDirectory
from federation.storage.shared_memory import FileLock

_LOCK = ".lock"
_ANNOUNCED = ".json"
_UNFINISHED = ".tmp"  # left behind by a process that was killed in announce()


class ProcessEntry:
    """The registration of this process in a data directory."""

    def __init__(self, directory: DataDirectory) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._json = directory.run / f"{self.id}{_ANNOUNCED}"
        self._lock_path = lock_path(directory, self.id)
        self._lock = FileLock(self._lock_path)
        self._lock.acquire(wait=True)  # live_runs in another process may hold it for a moment

    def __repr__(self) -> str:
        return f"<ProcessEntry {self.id}>"

    def announce(self, facts: dict[str, Any]) -> None:
        """Publish facts about this process for people and tools, atomically."""
        temporary = self._json.with_suffix(_UNFINISHED)
        temporary.write_text(json.dumps({"pid": os.getpid(), **facts}))
        # Readers see the old facts or the new, never half of them.
        temporary.replace(self._json)

    def end(self) -> None:
        """Remove this process's files and release its lock."""
        # The lock's file loses its name before the lock: otherwise it would look like that of a
        # killed process for a moment.
        self._json.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        self._lock.release()


def lock_path(directory: DataDirectory, run_id: str) -> Path:
    """Return the path of the lock file that a process holds as long as it lives."""
    return directory.run / f"{run_id}{_LOCK}"


def live_runs(directory: DataDirectory) -> list[dict[str, Any]]:
    """Return "id" and the published facts of each process that serves this directory now."""
    found = []
    for path in sorted(directory.run.glob(f"*{_LOCK}")):
        lock = FileLock(path)
        if lock.acquire():
            lock.release()
            continue
        found.append({"id": path.stem, **_announced(path.with_suffix(_ANNOUNCED))})
    return found


def dead_runs(directory: DataDirectory) -> list[str]:
    """Return the run ids of killed processes whose files have not been removed yet.

    The caller must hold the open lock, so that no process is just registering itself.
    """
    dead = []
    for path in sorted(directory.run.glob(f"*{_LOCK}")):
        lock = FileLock(path)
        if lock.acquire():
            lock.release()
            dead.append(path.stem)
    return dead


def remove_dead(directory: DataDirectory, dead: Iterable[str]) -> None:
    """Remove the files of killed processes.

    The pause of eviction for them must be durable before: only these files tell other processes
    that one is due.
    """
    for run_id in dead:
        for suffix in (_ANNOUNCED, _UNFINISHED, _LOCK):  # dead_runs finds them by the lock: last
            (directory.run / f"{run_id}{suffix}").unlink(missing_ok=True)


def _announced(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):  # not published yet, or being replaced
        return {}
    return facts if isinstance(facts, dict) else {}
