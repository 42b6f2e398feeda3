"""What the processes on one data directory share through the kernel: locks and counters.

Locks are flock(2) locks: the kernel drops them when their process dies, so none is ever stale. The
counters are in a file that stays in the page cache: reading one takes a microsecond, so that every
answer from a cache can check the epoch.
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
_HEAD = struct.Struct("@Q")  # native: one aligned store, so that no reader sees half a number
_HEAD_AT = 16
_ACKNOWLEDGEMENTS_AT = 24  # a counter of changes
_LOG_IN_DOUBT_AT = 32
_ENTRY_CHANGES_AT = 40
_PEERS_AT = 64
_PEER = struct.Struct("@QQ")  # number of its name (0: the slot is free), acknowledged row
_PEERS_MAX = 128
_EPOCH_BYTES = 4096
_BEYOND = 1_000_000  # more changes than a process can miss while another one repairs the file

# Unlike os.pread, PyDLL keeps the interpreter's lock: regaining it can take the event loop 5 ms
# while threads are busy, and these bytes are in memory anyway.
_pread = ctypes.PyDLL(None, use_errno=True).pread
_pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
_pread.restype = ctypes.c_ssize_t

_log = structlog.get_logger(__name__)


class FileLock:
    """A lock file. The file itself stays; only the kernel's lock on it counts."""

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
        """Take the lock; return False if another process holds it, unless wait. Raises OSError."""
        if self._fd is not None:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # By open file, so that a second one of this process conflicts, too; lockf would let it
            # pass.
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
        """Release the lock if it is held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def no_shared_memory(data_dir: Path, reason: str) -> StorageRefused:
    """Return the error for a data directory on a file system without shared memory."""
    return StorageRefused(
        f"{data_dir} is on a file system without shared memory mapping ({reason}); use a local disk"
    )


class Epoch:
    """A counter that all processes share, and that changes when any held object is gone.

    The same file contains further numbers:
    - the size of the largest upload refused for lack of room, for the process that evicts;
    - the newest row of the change log, for the process that replicates;
    - the number of the last change of index entries, for caches of them;
    - whether the catalogue's write-ahead log is in doubt, for the next process that starts;
    - how far each peer has acknowledged, for the processes that do not replicate.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file and allocate its block. Raises OSError, such as for no room.

        The file is not mapped: accessing a mapped page of a file that was truncated, or whose disk
        has an error, would end the process with SIGBUS.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._seen = 0
        self._unreadable = 0
        self._count = ctypes.c_uint64()
        self._count_at = ctypes.addressof(self._count)
        self._newest = ctypes.c_uint64()
        self._newest_at = ctypes.addressof(self._newest)
        self._changes = ctypes.c_uint64()
        self._changes_at = ctypes.addressof(self._changes)
        try:
            os.posix_fallocate(self._fd, 0, _EPOCH_BYTES)
        except OSError:
            os.close(self._fd)
            raise

    def __repr__(self) -> str:
        return f"<Epoch {self.value}>"

    @property
    def value(self) -> int:
        """The current epoch; if it cannot be read, a number different from all before."""
        if _pread(self._fd, self._count_at, _COUNTER.size, 0) == _COUNTER.size:
            self._seen = self._count.value
            return self._seen
        try:
            (count,) = _COUNTER.unpack(self._read(0, _COUNTER.size))
        except OSError as error:
            # Another number each time, so that nobody's remembered answer fits it.
            self._unreadable -= 1
            if self._unreadable == -1:
                _log.error("epoch_unreadable", reason=str(error))
            return self._unreadable
        self._seen = int(count)
        return self._seen

    def bump(self) -> None:
        """Add one to the epoch, under a lock against other processes. Raises OSError."""
        self._read(0, _COUNTER.size)
        with self._locked():
            (count,) = _COUNTER.unpack(self._read(0, _COUNTER.size))
            os.pwrite(self._fd, _COUNTER.pack(count + 1), 0)

    def want(self, size_bytes: int) -> None:
        """Record an upload for which there was no room, for the process that evicts."""
        self._read(0, _COUNTER.size)
        with self._locked():
            os.pwrite(self._fd, _COUNTER.pack(max(self._wanted(), size_bytes)), _WANTED_AT)

    def take_wanted(self) -> int:
        """Return the size of the largest upload that found no room since the last call; 0: none."""
        wanted = self._wanted()
        # Nearly always 0, so the lock is taken only for a number.
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
        """The newest row of the change log that a process has recorded."""
        if _pread(self._fd, self._newest_at, _HEAD.size, _HEAD_AT) == _HEAD.size:
            return self._newest.value
        return self._number(_HEAD_AT)

    def set_head(self, seq: int) -> None:
        """Record a row. If two processes do so at once, the older may remain: see LogEnd."""
        self._set_number(_HEAD_AT, seq)

    @property
    def entry_changes(self) -> int:
        """The number of the last change of index entries; -1 if it cannot be read."""
        if _pread(self._fd, self._changes_at, _HEAD.size, _ENTRY_CHANGES_AT) == _HEAD.size:
            return self._changes.value
        return -1

    def set_entry_changes(self, number: int) -> None:
        """Record a change of index entries. Raises OSError: it must not happen unnoticed."""
        self._read(0, _COUNTER.size)
        os.pwrite(self._fd, _HEAD.pack(number), _ENTRY_CHANGES_AT)

    @property
    def is_log_in_doubt(self) -> bool:
        """Whether a process failed to make the write-ahead log durable since the machine booted.

        A reboot may lose this number. That is harmless: it also ends the doubt, since the page
        cache, which may differ from the disk, is gone.
        """
        return bool(self._number(_LOG_IN_DOUBT_AT))

    def doubt_log(self, *, is_in_doubt: bool) -> None:
        """Record that the write-ahead log is in doubt, or that it is not any more."""
        if self.is_log_in_doubt != is_in_doubt:
            self._set_number(_LOG_IN_DOUBT_AT, int(is_in_doubt))

    @property
    def acknowledgements(self) -> int:
        """A number that differs after each change of what peers have acknowledged."""
        return self._number(_ACKNOWLEDGEMENTS_AT)

    def acknowledged(self, peer: int) -> int:
        """Return the row up to which a peer (its number) has everything; 0: none is recorded."""
        at = self._slot(peer)
        return 0 if at is None else self._number(at + _HEAD.size)

    def set_acknowledged(self, peer: int, seq: int) -> None:
        """Record how far a peer is; only the process that replicates does. Holds 128 peers."""
        # Only one process writes here, so a free slot stays free until it is taken.
        at = self._slot(peer) or self._slot(0)
        if at is not None:
            # The row first, so that no reader finds a new name with another peer's row.
            self._set_number(at + _HEAD.size, seq)
            self._set_number(at, peer)
            self._set_number(_ACKNOWLEDGEMENTS_AT, self.acknowledgements + 1)

    def forget_peers(self) -> None:
        """Clear what is recorded of peers. Call it only while no other process is there."""
        os.pwrite(self._fd, bytes(_PEERS_MAX * _PEER.size), _PEERS_AT)

    def _slot(self, peer: int) -> int | None:
        """Return the offset of a peer's slot (0: of a free slot); None: there is none."""
        slots = _PEER.iter_unpack(self._read(_PEERS_AT, _PEERS_MAX * _PEER.size))
        for at, (found, _) in enumerate(slots):
            if found == peer:
                return _PEERS_AT + at * _PEER.size
            if not found:
                return None
        return None

    def _number(self, at: int) -> int:
        """Return a number; 0 (nothing recorded) if it cannot be read."""
        try:
            (number,) = _HEAD.unpack(self._read(at, _HEAD.size))
        except OSError:
            return 0
        return int(number)

    def _set_number(self, at: int, number: int) -> None:
        """Write a number. An error is ignored: other processes also read the catalogue."""
        with suppress(OSError):
            os.pwrite(self._fd, _HEAD.pack(number), at)

    def _read(self, at: int, size_bytes: int) -> bytes:
        """Read from the file; repair it if it was truncated. Raises OSError."""
        room = ctypes.create_string_buffer(size_bytes)
        for _ in range(2):
            found = _pread(self._fd, room, size_bytes, at)
            if found == size_bytes:
                return room.raw
            if found < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            self._mend()
        raise OSError(errno.EIO, "the file was truncated again while it was repaired")

    def _mend(self) -> None:
        """Restore the file's size, with an epoch beyond any that a process has seen."""
        with self._locked():
            # Another process was faster.
            if os.fstat(self._fd).st_size >= _EPOCH_BYTES:
                return
            _log.error("epoch_truncated", text="another program truncated the file; it is restored")
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
