"""Blob files: opens, checks, hashes and writes them, trusting nothing that lies on the disk.

A file is trusted only while it is a regular file of the right size whose ctime has not changed
since it was last verified; anything else under its name is damage. Opening never follows a link and
never waits for a FIFO. A disk error says nothing about the blob, so it raises SourceUnavailable;
Unreadable is raised only if this file cannot be read while others can.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import stat
import threading
from contextlib import suppress
from typing import NamedTuple

from federation.core.digest import Digest, new_hasher
from federation.core.errors import SourceUnavailable, TooBusy
from federation.storage.catalogue.pool import Pool

NO_HANDLES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW  # for a new file

_HASH_STEP = 1024 * 1024
_WRITE_BYTES = 64 * 1024  # in one system call
_IF_CACHED: int | None = getattr(os, "RWF_NOWAIT", None)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


# Errors of a disk that is present but has lost some blocks of a file.
_LOST_BLOCKS = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EREMOTEIO)
_NOT_A_FILE = (errno.ELOOP, errno.ENXIO)  # a link, a socket


class Damage(Exception):
    """The file on the disk is not the blob; str() says why."""

    is_proven = True  # the file, if there is one, is certainly useless


class Gone(Damage):
    """The file does not exist. That is damage only while the volume is mounted (volume.Volume)."""


class Unreadable(Damage):
    """This file cannot be read, while others can. Its bytes may be right."""

    is_proven = False


class OpenBlob(NamedTuple):
    """An open blob file: its descriptor, and the ctime that identifies its state."""

    fd: int
    ctime_ns: int

    def __enter__(self) -> OpenBlob:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def open_blob(path: str, size_bytes: int) -> OpenBlob:
    """Open a blob's file for reading.

    Raises:
        Damage: it is not a plain file, or has another size.
        Gone: it does not exist.
        Unreadable: its own mode forbids reading it.
        TooBusy: no file handle is left.
        SourceUnavailable: any other error of the disk.
    """
    try:
        fd = os.open(path, _OPEN)
    except OSError as error:
        raise _trouble_with(path, error) from error
    return opened(fd, size_bytes)


def opened(fd: int, size_bytes: int) -> OpenBlob:
    """Return the blob that was opened. Raises Damage as open_blob does, and closes it then."""
    facts = os.fstat(fd)
    if (damage := damage_of(facts, size_bytes)) is None:
        return OpenBlob(fd, facts.st_ctime_ns)
    os.close(fd)
    raise damage


def check_file(path: str, size_bytes: int) -> None:
    """Check with one stat that the path is a plain file of this size. Reads no content.

    Raises Damage, Gone, SourceUnavailable, TooBusy.
    """
    try:
        facts = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise _trouble_with(path, error) from error
    if (damage := damage_of(facts, size_bytes)) is not None:
        raise damage


def damage_of(facts: os.stat_result, size_bytes: int) -> Damage | None:
    """Return what is wrong with a file, by what stat says of it."""
    if not stat.S_ISREG(facts.st_mode):
        return Damage("is not a plain file")
    if facts.st_size != size_bytes:
        return Damage(f"has {facts.st_size} bytes instead of {size_bytes}")
    return None


def _trouble_with(path: str, error: OSError) -> Exception:
    """Return the exception for an error of open or stat: about the blob, disk or process."""
    if error.errno in NO_HANDLES:
        return TooBusy(f"no file handle left: {error.strerror}")
    if error.errno == errno.ENOENT:
        return Gone("is gone")
    if error.errno in _NOT_A_FILE:
        return Damage("is not a plain file")
    # A folder that may not be entered gives the same error, and says nothing about the blob.
    if error.errno == errno.EACCES and _own_mode_forbids(path):
        return Unreadable("has a mode that forbids reading it")
    return SourceUnavailable("disk", f"{error.strerror} while opening a blob's file")


def _own_mode_forbids(path: str) -> bool:
    """Return whether the file's own mode, and not a folder above it, forbids reading it."""
    try:
        return not os.stat(path, follow_symlinks=False).st_mode & stat.S_IRUSR
    except OSError:
        return False


def read_exactly(fd: int, size_bytes: int, offset: int) -> bytes:
    """Read size_bytes at offset.

    Raises:
        Damage: the file ends too early.
        Unreadable: the disk has lost blocks of the file. Only a second attempt through another
            descriptor confirms that (Volume.read_twice).
        SourceUnavailable: any other error of the disk.
    """
    parts = []
    while size_bytes > 0:
        try:
            part = os.pread(fd, size_bytes, offset)
        except OSError as error:
            if error.errno in _LOST_BLOCKS:
                raise Unreadable(f"cannot be read: {error.strerror}") from error
            raise SourceUnavailable("disk", f"{error.strerror} while reading a blob") from error
        if not part:
            raise Damage(f"ends at byte {offset}")
        parts.append(part)
        offset += len(part)
        size_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_cached(fd: int, size_bytes: int, offset: int) -> bytes | None:
    """Read size_bytes at offset if the page cache holds all of them; else return None.

    Never waits for the disk, so it needs no thread. That saves two thread switches per chunk: a
    read of 256 MiB takes 100 instead of 130 ms of CPU. An error returns None, too: the caller then
    reads in a thread, which raises it.
    """
    if _IF_CACHED is None:
        return None
    # Avoids a copy: preadv fills the buffer in place, and getvalue returns that same buffer, since
    # nothing else refers to it.
    whole = io.BytesIO(bytes(size_bytes))
    with whole.getbuffer() as room:
        try:
            if os.preadv(fd, [room], offset, _IF_CACHED) != size_bytes:
                return None
        except OSError:
            return None
    return whole.getvalue()


def read_onwards(fd: int) -> None:
    """Tell the kernel that the file is read sequentially, so that it reads further ahead.

    Requesting the next parts one by one (POSIX_FADV_WILLNEED) costs more than it gains: 256 MiB
    took 230 instead of 50 ms in the kernel, and 530 instead of 310 ms in total.
    """
    with suppress(OSError):  # it is only advice; a real problem shows when the file is read
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def is_linked(fd: int) -> bool:
    """Whether the file still has a name; closing one that has none frees its blocks, slowly."""
    try:
        return os.fstat(fd).st_nlink > 0
    except OSError:
        return False


def write_whole(fd: int, data: bytes | memoryview) -> None:
    """Write all of data at the descriptor's position. Raises OSError.

    The page cache takes a large write in blocks of up to its size, and where free memory is in
    pieces, the kernel moves other pages about to make each block: 0.2 to 1.8 s of CPU for a GB in
    writes of 1 to 8 MiB, 0.2 to 1.2 in writes of 256 KiB, and 0.25 to 0.45 in these.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:_WRITE_BYTES]) :]


def verify_file(fd: int, digest: Digest) -> None:
    """Hash the whole file.

    Raises Damage (it does not match the digest), Unreadable, SourceUnavailable.
    """
    hasher = new_hasher(digest.function)
    offset = 0
    while offset < digest.size_bytes:
        part = read_exactly(fd, min(_HASH_STEP, digest.size_bytes - offset), offset)
        hasher.update(part)
        offset += len(part)
    if hasher.digest() != digest.hash:
        raise Damage("does not match its digest")


def verify_path(path: str, digest: Digest) -> int:
    """Open, verify and close; return the verified file's ctime.

    Raises Damage, SourceUnavailable, TooBusy.
    """
    with open_blob(path, digest.size_bytes) as blob:
        verify_file(blob.fd, digest)
        return blob.ctime_ns


_STEP_BYTES = 16 * 1024 * 1024  # 8 to 32 MiB make no difference
_AT_ONCE = 2  # the call blocks while the disk's queue is full, and readers need threads, too

_SYNC_FILE_RANGE_WRITE = 2  # without WAIT_BEFORE and WAIT_AFTER, which would consume disk errors
_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_sync_file_range.restype = ctypes.c_int

_slots = threading.BoundedSemaphore(_AT_ONCE)


class WriteBack:
    """Starts the write-back of a growing file early, so that its fdatasync has little left to do.

    This is an optimization only: nothing counts as written before the fdatasync. The call neither
    waits for the disk nor consumes its errors, so the fdatasync still reports them.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._begun_bytes = 0

    def __repr__(self) -> str:
        return f"<WriteBack up to {self._begun_bytes}>"

    def wrote(self, fd: int, written_bytes: int) -> None:
        """Start writing new bytes to the disk if there are many and few other writes run."""
        begun_bytes = self._begun_bytes
        # Left out rather than waited for: the fdatasync writes whatever was not begun.
        if written_bytes - begun_bytes < _STEP_BYTES or not _slots.acquire(blocking=False):
            return
        self._begun_bytes = written_bytes
        # A descriptor of its own: the ingest may have closed the file before a thread is free.
        self._pool.submit(_start, os.dup(fd), begun_bytes, written_bytes - begun_bytes)


def start_writing(fd: int, offset: int, size_bytes: int) -> None:
    """Start writing these bytes to the disk. Blocks while the disk's queue is full."""
    _sync_file_range(fd, offset, size_bytes, _SYNC_FILE_RANGE_WRITE)


def _start(fd: int, offset: int, size_bytes: int) -> None:
    try:
        start_writing(fd, offset, size_bytes)
    finally:
        os.close(fd)
        _slots.release()
