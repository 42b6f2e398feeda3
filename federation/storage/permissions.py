"""Removes the access of other users to a data directory.

A user who can read the catalogue's files can read small blobs, and can block all writes with a file
lock. So the storage's files are accessible to the owner only, and so is the directory, unless it
contains other files, which others may need: then they keep the right to enter and list it.
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
_CATALOGUE = "catalogue."  # prefix of the names of the catalogue's files


def tighten(directory: DataDirectory) -> list[Path]:
    """Remove other users' permissions; return the paths that were changed. Blocks.

    Files of another owner are left alone. Raises StorageRefused if the directory itself has another
    owner and everybody may write in it: other users could replace our files. Raises OSError.
    """
    root = directory.root
    facts = root.stat()
    # Nothing of another user's can be changed; what matters is whether others may change it.
    if facts.st_uid != os.geteuid():
        if facts.st_mode & stat.S_IWOTH:
            raise StorageRefused(
                f"data directory {root} belongs to another user, and every user of this machine "
                f"may write in it: chown it to this process's user, or chmod o-w {root}"
            )
        return []
    return [path for path, mode in _to_tighten(directory) if _remove_mode(path, mode)]


def log_tightened(changed: list[Path]) -> None:
    """Log the paths that tighten() has changed, if any."""
    if changed:
        shown = [str(path) for path in changed[:3]]
        _log.warning("data_directory_tightened", paths=shown, count=len(changed))


def _to_tighten(directory: DataDirectory) -> Iterator[tuple[Path, int]]:
    """Yield the storage's paths with the permission bits to remove."""
    ours = {path for path in vars(directory).values() if isinstance(path, Path)}
    others = False
    for path in directory.root.iterdir():
        # By name also what SQLite puts beside it: -wal and -shm hold rows, too.
        if path in ours or path.name.startswith(_CATALOGUE):
            yield path, _OTHERS
        else:
            others = True
    yield directory.root, _OTHERS_WRITE if others else _OTHERS
    yield from ((path, _OTHERS) for path in directory.run.iterdir())


def _remove_mode(path: Path, mode: int) -> bool:
    """Remove permission bits; return whether any was set. Links to files are left alone.

    Opens nothing: closing a file of the catalogue would drop the locks that SQLite has on it.
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
    except FileNotFoundError:  # removed by a process that has just ended
        return False
    return True
