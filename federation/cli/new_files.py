"""Puts whole files in place: nobody ever sees half of one, and nothing is overwritten by chance."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from federation.core.errors import CannotStart


def put_files(files: Mapping[Path, tuple[bytes, int]], *, force: bool) -> None:
    """Write each file with its mode, in this order; all are new, or force says to replace them.

    Raises CannotStart, before anything is written, when one is there already; OSError.
    """
    if not force:
        there = [str(path) for path in files if path.exists() or path.is_symlink()]
        if there:
            raise CannotStart(f"{', '.join(there)}: there already; --force replaces it")
    for path, (data, mode) in files.items():
        with _beside(path, data, mode) as temporary:
            if force:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # fails if it has appeared meanwhile


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Put new contents in the place of a file that is there or not; raises OSError."""
    with _beside(path, data, mode) as temporary:
        temporary.replace(path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep two commands that change files in a folder from losing what the other adds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Give a durable file of another name in the same folder; gone at the end, unless renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            _keep_owner(path, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Give the file the owner that the one it replaces has, where this user may do that."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    mine = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
