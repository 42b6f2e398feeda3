"""Which processes serve this data directory, and which of them died without saying goodbye.

Each has run/ID.lock, locked for its life, and once it answers, run/ID.json with its addresses. A
lock file that can be locked belongs to a process that was killed: what it had promised from
memory (leases not yet written) is unknown, so eviction pauses for one lease period.
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
_UNFINISHED = ".tmp"  # what a process killed while it announced leaves


class ProcessEntry:
    """This process's presence in the data directory."""

    def __init__(self, directory: DataDirectory) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._json = directory.run / f"{self.id}{_ANNOUNCED}"
        self._lock_path = lock_path(directory, self.id)
        self._lock = FileLock(self._lock_path)
        self._lock.acquire(wait=True)  # somebody counting the living may hold it for a moment

    def __repr__(self) -> str:
        return f"<ProcessEntry {self.id}>"

    def announce(self, facts: dict[str, Any]) -> None:
        """Publish what people and tools may want to know, in one step."""
        temporary = self._json.with_suffix(_UNFINISHED)
        temporary.write_text(json.dumps({"pid": os.getpid(), **facts}))
        temporary.replace(self._json)

    def end(self) -> None:
        """Leave cleanly: no trace stays."""
        self._json.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        self._lock.release()


def lock_path(directory: DataDirectory, run_id: str) -> Path:
    """Return the file that the process of a run has locked for its life."""
    return directory.run / f"{run_id}{_LOCK}"


def live_runs(directory: DataDirectory) -> list[dict[str, Any]]:
    """Return {"id", and what was announced} of each process that serves this directory now."""
    found = []
    for path in sorted(directory.run.glob(f"*{_LOCK}")):
        lock = FileLock(path)
        if lock.acquire():
            lock.release()
            continue
        found.append({"id": path.stem, **_announced(path.with_suffix(_ANNOUNCED))})
    return found


def dead_runs(directory: DataDirectory) -> list[str]:
    """Return the run ids of processes that were killed and have not been buried.

    The caller holds the open lock, so that no process is just making its own trace.
    """
    dead = []
    for path in sorted(directory.run.glob(f"*{_LOCK}")):
        lock = FileLock(path)
        if lock.acquire():
            lock.release()
            dead.append(path.stem)
    return dead


def remove_dead(directory: DataDirectory, dead: Iterable[str]) -> None:
    """Remove the traces of dead processes.

    The pause of eviction that is due to them has to be durable by then: whoever comes next knows
    of them only by these.
    """
    for run_id in dead:
        for suffix in (_ANNOUNCED, _UNFINISHED, _LOCK):  # the lock last: it is what is looked for
            (directory.run / f"{run_id}{suffix}").unlink(missing_ok=True)


def _announced(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):  # not announced yet, or being replaced
        return {}
    return facts if isinstance(facts, dict) else {}
