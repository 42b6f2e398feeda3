"""Blob files: opening one with suspicion, hashing it, and receiving one crash-safely.

A file is trusted only while it is a regular file of the right size whose ctime is the one seen
when it was last verified; whatever else lies under its name is damage. Opening never follows a
link and never waits for a FIFO. An error of the disk says nothing about the blob: it is
SourceUnavailable, and only where one file cannot be read by itself it is Unreadable.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass

from federation.core.digest import Digest, new_hasher
from federation.core.errors import SourceUnavailable, TooBusy
from federation.storage.catalogue.pool import Pool

NO_HANDLES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW  # to receive into

_HASH_STEP = 1024 * 1024
_IF_CACHED: int | None = getattr(os, "RWF_NOWAIT", None)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


# What a disk answers that has lost some of a file's blocks, and not because it is away.
_LOST_BLOCKS = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EREMOTEIO)
_NOT_A_FILE = (errno.ELOOP, errno.ENXIO)  # a link, a socket


class Damage(Exception):
    """What lies on the disk is not the blob; str() says in which way."""

    is_proven = True  # what lies there, if anything, is of no use


class Gone(Damage):
    """Nothing lies there. It counts as damage only where the volume is there (volume.Volume)."""


class Unreadable(Damage):
    """This one file cannot be read, while others can. Its bytes may be right."""

    is_proven = False


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """An open blob file: descriptor and the ctime that identifies this state of it."""

    fd: int
    ctime_ns: int

    def __enter__(self) -> OpenBlob:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def open_blob(path: str, size_bytes: int) -> OpenBlob:
    """Open a blob's file for reading.

    Raises Damage when it is not a plain file or of another size, Gone, Unreadable when its own
    mode forbids reading it, TooBusy when this process has no file handle left, and
    SourceUnavailable for any other error of the disk.
    """
    try:
        fd = os.open(path, _OPEN)
    except OSError as error:
        raise _trouble_with(path, error) from error
    facts = os.fstat(fd)
    if (damage := _damage_of(facts, size_bytes)) is None:
        return OpenBlob(fd, facts.st_ctime_ns)
    os.close(fd)
    raise damage


def check_file(path: str, size_bytes: int) -> None:
    """Look whether a plain file of this size lies there; cheap, reads no content.

    Raises Damage, Gone, SourceUnavailable, TooBusy.
    """
    try:
        facts = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise _trouble_with(path, error) from error
    if (damage := _damage_of(facts, size_bytes)) is not None:
        raise damage


def _damage_of(facts: os.stat_result, size_bytes: int) -> Damage | None:
    if not stat.S_ISREG(facts.st_mode):
        return Damage("is not a plain file")
    if facts.st_size != size_bytes:
        return Damage(f"has {facts.st_size} bytes instead of {size_bytes}")
    return None


def _trouble_with(path: str, error: OSError) -> Exception:
    """Return what an error of open or stat says: of the blob, of the disk, or of this process."""
    if error.errno in NO_HANDLES:
        return TooBusy(f"no file handle left: {error.strerror}")
    if error.errno == errno.ENOENT:
        return Gone("is gone")
    if error.errno in _NOT_A_FILE:
        return Damage("is not a plain file")
    if error.errno == errno.EACCES and _own_mode_forbids(path):
        return Unreadable("has a mode that forbids reading it")
    return SourceUnavailable("disk", f"{error.strerror} while opening a blob's file")


def _own_mode_forbids(path: str) -> bool:
    """Whether the file itself, and not a folder above it, keeps its owner from reading it."""
    try:
        return not os.stat(path, follow_symlinks=False).st_mode & stat.S_IRUSR
    except OSError:
        return False


def read_exactly(fd: int, size_bytes: int, offset: int) -> bytes:
    """Read size_bytes at offset.

    Raises Damage where the file ends before, Unreadable where the disk has lost its blocks (which
    only a second descriptor makes sure of), SourceUnavailable for any other error.
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
    """Read size_bytes at offset where all of them lie in memory; None where that is not so.

    Never waits for the disk, so it needs no thread: that saves two switches between threads for
    each chunk, and the second of two cores for those who have use for it. A read of 256 MiB takes
    100 instead of 130 ms of CPU. Whatever goes wrong is None: who then reads in a thread hears of
    it.
    """
    if _IF_CACHED is None:
        return None
    # The bytes are made once, filled in place, and taken out again: BytesIO hands out its own
    # buffer where nobody else holds it.
    whole = io.BytesIO(bytes(size_bytes))
    with whole.getbuffer() as room:
        try:
            if os.preadv(fd, [room], offset, _IF_CACHED) != size_bytes:
                return None
        except OSError:
            return None
    return whole.getvalue()


def read_onwards(fd: int) -> None:
    """Tell the kernel that this descriptor is read from front to back: it fetches more ahead then.

    Asking for the next parts one by one (POSIX_FADV_WILLNEED) costs more than it gains: 256 MiB
    took 230 instead of 50 ms in the kernel, and 530 instead of 310 in all.
    """
    with suppress(OSError):  # only the disk's own reads tell of trouble with it
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def write_whole(fd: int, data: bytes) -> None:
    """Write all of data where the descriptor stands. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def verify_file(fd: int, digest: Digest) -> None:
    """Hash the whole file.

    Raises Damage when its bytes are not those that the digest names, Unreadable,
    SourceUnavailable.
    """
    hasher = new_hasher(digest.function)
    offset = 0
    while offset < digest.size_bytes:
        part = read_exactly(fd, min(_HASH_STEP, digest.size_bytes - offset), offset)
        hasher.update(part)
        offset += len(part)
    if hasher.digest() != digest.hash:
        raise Damage("has other bytes than its digest names")


def verify_path(path: str, digest: Digest) -> int:
    """Open, verify and close; return the verified file's ctime.

    Raises Damage, SourceUnavailable, TooBusy.
    """
    with open_blob(path, digest.size_bytes) as blob:
        verify_file(blob.fd, digest)
        return blob.ctime_ns


_STEP_BYTES = 16 * 1024 * 1024  # 8 to 32 MiB make no difference
_AT_ONCE = 2  # the call blocks while the disk's queue is full; readers need the other threads

_SYNC_FILE_RANGE_WRITE = 2  # without WAIT_BEFORE and WAIT_AFTER, which would take errors away
_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_sync_file_range.restype = ctypes.c_int

_slots = threading.BoundedSemaphore(_AT_ONCE)


class WriteBack:
    """Starts to write a growing file's pages, so that its fdatasync has little left to do.

    Only advice: nothing here counts as written. The call neither waits for the disk nor takes
    notice of its errors, so the kernel keeps those for the fdatasync that decides.
    """

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
