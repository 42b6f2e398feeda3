"""Keeps other users of the machine out of a data directory, also one that they could enter before.

Whoever may read the catalogue's files reads small blobs, and blocks every write by a lock on one of
them. So what is ours in there is for our user alone; so is the directory, unless something else
lies in it too, which others may have to reach: then they can still enter and list it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from federation.core.errors import StorageRefused
from federation.storage.directory import DataDirectory

_log = structlog.get_logger(__name__)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_CATALOGUE = "catalogue."  # begins the names of its files


def tighten(directory: DataDirectory) -> list[Path]:
    """Take from others what they may do there; return where that was anything. Blocks.

    What belongs to another user is left as it is. Raises StorageRefused where that is the directory
    itself, and everybody may write there: others could put files of their own in place of ours.
    """
    root = directory.root
    facts = root.stat()
    if facts.st_uid != os.geteuid():
        if facts.st_mode & stat.S_IWOTH:
            raise StorageRefused(
                f"every user of this machine may write in data directory {root}, which belongs to "
                f"another user: chown it to this process's user, or chmod o-w {root}"
            )
        return []
    return [path for path, mode in _wanted(directory) if _take(path, mode)]


def log_tightened(changed: list[Path]) -> None:
    """Log that others could do something, and now cannot."""
    if changed:
        shown = [str(path) for path in changed[:3]]
        _log.warning("data_directory_tightened", paths=shown, count=len(changed))


def _wanted(directory: DataDirectory) -> Iterator[tuple[Path, int]]:
    """Yield what is ours, and which permissions are to be taken from it."""
    ours = {path for path in vars(directory).values() if isinstance(path, Path)}
    others = False
    for path in directory.root.iterdir():
        if path in ours or path.name.startswith(_CATALOGUE):
            yield path, _OTHERS
        else:
            others = True
    yield directory.root, _OTHERS_WRITE if others else _OTHERS
    yield from ((path, _OTHERS) for path in directory.run.iterdir())


def _take(path: Path, mode: int) -> bool:
    """Take these permissions away; return whether there were any. Links to files are left alone.

    Nothing is opened: closing a file of the catalogue would drop the locks that SQLite has on it.
    """
    try:
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            facts = path.stat()
            if not stat.S_ISDIR(facts.st_mode):
                return False
        if facts.st_uid != os.geteuid() or not facts.st_mode & mode:
            return False
        path.chmod(stat.S_IMODE(facts.st_mode) & ~mode)
    except FileNotFoundError:  # of a process that has just ended
        return False
    return True
