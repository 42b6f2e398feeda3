"""Looks at blob files on the event loop, as far as memory has their names.

Nothing here waits for a disk (RESOLVE_CACHED) or judges a blob: whatever is not plainly right
raises BlockingIOError, and a thread looks at it.
"""

from __future__ import annotations

import ctypes
import errno
import os

from federation.storage import blob_files

_OPENAT2 = 437  # on every architecture
_AT_FDCWD = -100
_RESOLVE_CACHED = 0x20


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


# PyDLL keeps the interpreter's lock, as nothing waits; regaining it may take milliseconds.
_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_HOW_BYTES = ctypes.c_size_t(ctypes.sizeof(_OpenHow))
_TO_LOOK = _OpenHow(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _RESOLVE_CACHED)


def check_file(path: str, size_bytes: int) -> None:
    """Check that the path is a plain file of this size. Raises BlockingIOError."""
    fd = _open(path, _TO_LOOK)
    try:
        facts = os.fstat(fd)
    finally:
        os.close(fd)
    if blob_files.damage_of(facts, size_bytes) is not None:
        raise BlockingIOError(errno.EAGAIN, "not plainly right")


def _open(path: str, how: _OpenHow) -> int:
    fd: int = _syscall(_OPENAT2, _AT_FDCWD, path.encode(), ctypes.byref(how), _HOW_BYTES)
    if fd < 0:
        raise BlockingIOError(ctypes.get_errno(), "not to be opened at once")
    return fd
