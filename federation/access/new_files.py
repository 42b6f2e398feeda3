"""Writes whole files: readers never see half of one, and nothing is overwritten by accident."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from federation.core.errors import CannotStart


def put_files(files: Mapping[Path, tuple[bytes, int]], *, force: bool) -> None:
    """Write each file with its mode, in this order; force: replace existing ones.

    Raises CannotStart, before anything is written, if one exists already; OSError.
    """
    if not force:
        # exists() follows links, and a link that leads nowhere is something, too.
        there = [str(path) for path in files if path.exists() or path.is_symlink()]
        if there:
            raise CannotStart(f"{', '.join(there)}: exists already; --force replaces it")
    for path, (data, mode) in files.items():
        with _beside(path, data, mode) as temporary:
            if force:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # fails if the path exists by now


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Replace a file, which need not exist, by one with these contents. Raises OSError."""
    with _beside(path, data, mode) as temporary:
        temporary.replace(path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a lock, so that two commands do not overwrite each other's changes in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # On the folder: a lock on a file would go with the file that is replaced.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """Make what was created, renamed and removed in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Yield a durable temporary file in the same folder; removed at the end, unless renamed."""
    # Hidden, as folders of certificates leave such files out.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            # After the open with 0600: at no time can others read a secret.
            os.fchmod(file.fileno(), mode)
            _keep_owner(path, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        # Only now has the caller renamed it: the new name is durable like the bytes.
        sync_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Give the file the owner of the file that it replaces, if this user may do that."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    mine = os.fstat(descriptor)
    # Root edits files that the node's user has to read.
    if (before.st_uid, before.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
