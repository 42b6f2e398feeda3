"""Whether other users of the machine may read a secret, or write a file that decides access."""

from __future__ import annotations

import stat
from pathlib import Path

_READ_OR_WRITE = stat.S_IROTH | stat.S_IWOTH


def is_exposed(secret: Path) -> bool:
    """Whether others may read or write this file; False for a missing one. Blocks."""
    return bool(_mode(secret) & _READ_OR_WRITE)


def writable_by_others(file: Path) -> Path | None:
    """Return the path, the file's or a folder's, by which others can change the file; blocks.

    In a folder with the sticky bit, such as /tmp, they cannot replace what others have made.
    """
    if _mode(file) & stat.S_IWOTH:
        return file
    # Who can write a folder can put another file in the place of this one.
    for folder in file.absolute().parents:
        mode = _mode(folder)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return folder
    return None


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        # One that is not there is not exposed, and whoever opens it reports that it is missing.
        return 0
