"""Sending a signal to a process that serves a data directory, and to no other.

The files below run/ are the node's user's to write, and what they name may have ended since. Root
must not be led by them to another process: the one that is signalled has the run's lock file open.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from federation.storage.directory import DataDirectory
from federation.storage.processes import lock_path


def send(data_dir: Path, run_id: str, pid: object, number: signal.Signals) -> str | None:
    """Send it; return why that was not possible, None if it was."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return f"{pid!r}, which its file names, is no process"
    try:
        if _signal(pid, lock_path(DataDirectory(data_dir), run_id), number):
            return None
    except PermissionError:
        return "this user may not signal it: be the node's user, or root"
    except (FileNotFoundError, ProcessLookupError):
        return "it has just ended"
    except OSError as error:
        return f"process {pid} cannot be looked at: {error.strerror}"
    return f"process {pid}, which its file names, does not serve {data_dir}"


def _signal(pid: int, lock: Path, number: signal.Signals) -> bool:
    """Signal a process if it has this file open; return whether it has. Raises OSError."""
    handle = os.pidfd_open(pid)  # the same process from here on, whatever ends and begins
    try:
        if not _has_open(pid, lock):
            return False
        signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
    return True


def _has_open(pid: int, file: Path) -> bool:
    """Whether a process has this file open. Raises OSError: nobody, or not ours to see."""
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
