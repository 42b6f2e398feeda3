"""Starting to write a file's pages to the disk, so that the fdatasync at the end has little to do.

Only advice: nothing here counts as written. The call neither waits for the disk nor takes notice of
its errors, so the kernel keeps those for the fdatasync that decides.
"""

from __future__ import annotations

import ctypes
import os
import threading

from federation.storage.catalogue.pool import Pool

_STEP_BYTES = 16 * 1024 * 1024  # 8 to 32 MiB make no difference
_AT_ONCE = 2  # the call blocks while the disk's queue is full; readers need the other threads

_SYNC_FILE_RANGE_WRITE = 2  # without WAIT_BEFORE and WAIT_AFTER, which would take errors away
_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_sync_file_range.restype = ctypes.c_int

_slots = threading.BoundedSemaphore(_AT_ONCE)


class WriteBack:
    """How much of one growing file the disk has been told to write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._begun_bytes = 0

    def __repr__(self) -> str:
        return f"<WriteBack up to {self._begun_bytes}>"

    def wrote(self, fd: int, written_bytes: int) -> None:
        """Let the disk begin with what is new, if that is much and the disk is not busy already."""
        begun_bytes = self._begun_bytes
        if written_bytes - begun_bytes < _STEP_BYTES or not _slots.acquire(blocking=False):
            return
        self._begun_bytes = written_bytes
        self._pool.submit(_start, os.dup(fd), begun_bytes, written_bytes - begun_bytes)


def start_writing(fd: int, offset: int, size_bytes: int) -> None:
    """Let the disk begin with these bytes; blocks while its queue is full."""
    _sync_file_range(fd, offset, size_bytes, _SYNC_FILE_RANGE_WRITE)


def _start(fd: int, offset: int, size_bytes: int) -> None:
    try:
        start_writing(fd, offset, size_bytes)
    finally:
        os.close(fd)
        _slots.release()
