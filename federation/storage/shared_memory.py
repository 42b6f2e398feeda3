"""What the processes on one data directory share through the kernel: locks and the epoch.

Locks are flock(2) locks: the kernel drops them when their process dies, so nothing is ever stale.
The epoch is a counter in a file that stays in the kernel's memory: reading it costs a
microsecond, so every answer from memory can afford to check it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from federation.core.errors import StorageRefused

_COUNTER = struct.Struct("=Q")
_WANTED_AT = _COUNTER.size
_HEAD = struct.Struct("@Q")  # native: one aligned store, so that nobody reads half of a number
_HEAD_AT = 16
_ACKNOWLEDGEMENTS_AT = 24  # how often one was told of
_LOG_IN_DOUBT_AT = 32
_PEERS_AT = 64
_PEER = struct.Struct("@QQ")  # what stands for its name (0: the slot is free), acknowledged row
_PEERS_MAX = 128
_EPOCH_BYTES = 4096
_BEYOND = 1_000_000  # so many changes no process misses while another mends the file

# Keeps the interpreter's lock, which os.pread gives away: taking it back can cost the event loop
# 5 ms while threads are busy, and these bytes are in memory.
_pread = ctypes.PyDLL(None, use_errno=True).pread
_pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
_pread.restype = ctypes.c_ssize_t

_log = structlog.get_logger(__name__)


class FileLock:
    """A lock file. The file stays; only the kernel's lock on it counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def __repr__(self) -> str:
        return f"<FileLock {self._path.name} {'held' if self.held else 'free'}>"

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; False when another process has it and wait is off. Raises OSError."""
        if self._fd is not None:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Give the lock back; safe when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def no_shared_memory(data_dir: Path, reason: str) -> StorageRefused:
    """Return the refusal of a data directory that processes cannot share."""
    return StorageRefused(
        f"{data_dir} is on a file system without shared memory mapping ({reason}); use a local disk"
    )


class Epoch:
    """A counter that every process sees at once. It moves when anything held is gone.

    Beside it lies the size of the largest upload that was refused for want of room, so that the
    one process that evicts hears of the others' need, and the number of the newest row of the
    change log, so that the one process that replicates hears of the others' commits; and how far
    each peer is, so that the others hear of that.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, making it when absent, and allocate its block. Raises OSError (no room).

        It is read and written by calls, and not mapped: touching a mapped page of a file that
        somebody has truncated, or whose disk gives an error, ends the process (SIGBUS).
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._seen = 0
        self._unreadable = 0
        self._count = ctypes.c_uint64()
        self._count_at = ctypes.addressof(self._count)
        try:
            os.posix_fallocate(self._fd, 0, _EPOCH_BYTES)
        except OSError:
            os.close(self._fd)
            raise

    def __repr__(self) -> str:
        return f"<Epoch {self.value}>"

    @property
    def value(self) -> int:
        """The counter now; where it cannot be read, a number that was never there."""
        if _pread(self._fd, self._count_at, _COUNTER.size, 0) == _COUNTER.size:
            self._seen = self._count.value
            return self._seen
        try:
            (count,) = _COUNTER.unpack(self._read(0, _COUNTER.size))
        except OSError as error:
            self._unreadable -= 1
            if self._unreadable == -1:
                _log.error("epoch_unreadable", reason=str(error))
            return self._unreadable
        self._seen = int(count)
        return self._seen

    def bump(self) -> None:
        """Add one, safely against other processes. Raises OSError."""
        self._read(0, _COUNTER.size)
        with self._locked():
            (count,) = _COUNTER.unpack(self._read(0, _COUNTER.size))
            os.pwrite(self._fd, _COUNTER.pack(count + 1), 0)

    def want(self, size_bytes: int) -> None:
        """Tell the process that evicts of an upload for which there was no room."""
        self._read(0, _COUNTER.size)
        with self._locked():
            os.pwrite(self._fd, _COUNTER.pack(max(self._wanted(), size_bytes)), _WANTED_AT)

    def take_wanted(self) -> int:
        """Return the size of the largest upload that found no room since the last call; 0: none."""
        wanted = self._wanted()
        if wanted:
            with self._locked():
                wanted = self._wanted()
                os.pwrite(self._fd, _COUNTER.pack(0), _WANTED_AT)
        return wanted

    def _wanted(self) -> int:
        (wanted,) = _COUNTER.unpack(self._read(_WANTED_AT, _COUNTER.size))
        return int(wanted)

    @property
    def head(self) -> int:
        """The newest row of the change log that a process told of."""
        return self._number(_HEAD_AT)

    def set_head(self, seq: int) -> None:
        """Tell of a row. Two processes at once may leave the older: see log_end.LogEnd."""
        self._set_number(_HEAD_AT, seq)

    @property
    def is_log_in_doubt(self) -> bool:
        """Whether a process could not make the catalogue's write-ahead log durable since the boot.

        It lies in the kernel's memory, as what is in doubt does: a new boot knows of neither.
        """
        return bool(self._number(_LOG_IN_DOUBT_AT))

    def doubt_log(self, *, is_in_doubt: bool) -> None:
        """Tell of it, or that the log was begun anew."""
        if self.is_log_in_doubt != is_in_doubt:
            self._set_number(_LOG_IN_DOUBT_AT, int(is_in_doubt))

    @property
    def acknowledgements(self) -> int:
        """A number that differs after each change of what peers have acknowledged."""
        return self._number(_ACKNOWLEDGEMENTS_AT)

    def acknowledged(self, peer: int) -> int:
        """The newest row up to which a peer has everything; 0: nothing was told of it."""
        at = self._slot(peer)
        return 0 if at is None else self._number(at + _HEAD.size)

    def set_acknowledged(self, peer: int, seq: int) -> None:
        """Tell of it; only the process that replicates does. Beyond 128 peers nothing is told."""
        at = self._slot(peer) or self._slot(0)
        if at is not None:
            # The row first: under a name that is new here nobody sees another's.
            self._set_number(at + _HEAD.size, seq)
            self._set_number(at, peer)
            self._set_number(_ACKNOWLEDGEMENTS_AT, self.acknowledgements + 1)

    def forget_peers(self) -> None:
        """Begin with nothing told, when no other process is there."""
        os.pwrite(self._fd, bytes(_PEERS_MAX * _PEER.size), _PEERS_AT)

    def _slot(self, peer: int) -> int | None:
        """Return where a peer's numbers are; there are never many."""
        slots = _PEER.iter_unpack(self._read(_PEERS_AT, _PEERS_MAX * _PEER.size))
        for at, (found, _) in enumerate(slots):
            if found == peer:
                return _PEERS_AT + at * _PEER.size
            if not found:
                return None
        return None

    def _number(self, at: int) -> int:
        """Return a number; 0, as if nothing had been told, where it cannot be read."""
        try:
            (number,) = _HEAD.unpack(self._read(at, _HEAD.size))
        except OSError:
            return 0
        return int(number)

    def _set_number(self, at: int, number: int) -> None:
        """Tell a number; who cannot be told looks into the catalogue sooner or later."""
        with suppress(OSError):
            os.pwrite(self._fd, _HEAD.pack(number), at)

    def _read(self, at: int, size_bytes: int) -> bytes:
        """Read from the file, mending it where somebody has truncated it. Raises OSError."""
        room = ctypes.create_string_buffer(size_bytes)
        for _ in range(2):
            found = _pread(self._fd, room, size_bytes, at)
            if found == size_bytes:
                return room.raw
            if found < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            self._mend()
        raise OSError(errno.EIO, "the file is cut again and again")

    def _mend(self) -> None:
        """Make the file whole, with a counter beyond all that any process has seen."""
        with self._locked():
            if os.fstat(self._fd).st_size >= _EPOCH_BYTES:
                return
            _log.error("epoch_truncated", text="somebody truncated the file; it is made anew")
            os.posix_fallocate(self._fd, 0, _EPOCH_BYTES)
            os.pwrite(self._fd, _COUNTER.pack(self._seen + _BEYOND), 0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
