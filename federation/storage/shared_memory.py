"""What the processes on one data directory share through the kernel: locks and the epoch.

Locks are flock(2) locks: the kernel drops them when their process dies, so nothing is ever stale.
The epoch is a counter in a memory-mapped file: reading it costs a memory access, so every answer
from memory can afford to check it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.core.errors import StorageRefused

_COUNTER = struct.Struct("=Q")
_WANTED_AT = _COUNTER.size
_HEAD = struct.Struct("@Q")  # native: one aligned store, so that nobody reads half of a number
_HEAD_AT = 16
_ACKNOWLEDGEMENTS_AT = 24  # how often one was told of
_PEERS_AT = 64
_PEER = struct.Struct("@QQ")  # what stands for its name (0: the slot is free), acknowledged row
_PEERS_MAX = 128
_EPOCH_BYTES = mmap.PAGESIZE


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
        """Map the file, making it when absent.

        Its block is allocated before it is mapped: touching a hole on a full disk is a SIGBUS.

        Raises OSError (no room), StorageRefused where mmap is not shared.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, _EPOCH_BYTES)
        except OSError:
            os.close(self._fd)
            raise
        try:
            self._map = mmap.mmap(self._fd, _EPOCH_BYTES, mmap.MAP_SHARED)
        except OSError as error:
            os.close(self._fd)
            raise no_shared_memory(path.parent, str(error.strerror)) from error

    def __repr__(self) -> str:
        return f"<Epoch {self.value}>"

    @property
    def value(self) -> int:
        """The counter now."""
        count: int = _COUNTER.unpack_from(self._map)[0]
        return count

    def bump(self) -> None:
        """Add one, safely against other processes."""
        with self._locked():
            _COUNTER.pack_into(self._map, 0, self.value + 1)

    def want(self, size_bytes: int) -> None:
        """Tell the process that evicts of an upload for which there was no room."""
        with self._locked():
            wanted: int = _COUNTER.unpack_from(self._map, _WANTED_AT)[0]
            _COUNTER.pack_into(self._map, _WANTED_AT, max(wanted, size_bytes))

    def take_wanted(self) -> int:
        """Return the size of the largest upload that found no room since the last call; 0: none."""
        wanted: int = _COUNTER.unpack_from(self._map, _WANTED_AT)[0]
        if wanted:
            with self._locked():
                wanted = _COUNTER.unpack_from(self._map, _WANTED_AT)[0]
                _COUNTER.pack_into(self._map, _WANTED_AT, 0)
        return wanted

    @property
    def head(self) -> int:
        """The newest row of the change log that a process told of."""
        seq: int = _HEAD.unpack_from(self._map, _HEAD_AT)[0]
        return seq

    def set_head(self, seq: int) -> None:
        """Tell of a row. Two processes at once may leave the older: see head.Head."""
        _HEAD.pack_into(self._map, _HEAD_AT, seq)

    @property
    def acknowledgements(self) -> int:
        """A number that differs after each change of what peers have acknowledged."""
        count: int = _HEAD.unpack_from(self._map, _ACKNOWLEDGEMENTS_AT)[0]
        return count

    def acknowledged(self, peer: int) -> int:
        """The newest row up to which a peer has everything; 0: nothing was told of it."""
        at = self._slot(peer)
        seq: int = 0 if at is None else _PEER.unpack_from(self._map, at)[1]
        return seq

    def set_acknowledged(self, peer: int, seq: int) -> None:
        """Tell of it; only the process that replicates does. Beyond 128 peers nothing is told."""
        at = self._slot(peer) or self._slot(0)
        if at is not None:
            # The row first: under a name that is new here nobody sees another's.
            _HEAD.pack_into(self._map, at + _HEAD.size, seq)
            _HEAD.pack_into(self._map, at, peer)
            _HEAD.pack_into(self._map, _ACKNOWLEDGEMENTS_AT, self.acknowledgements + 1)

    def forget_peers(self) -> None:
        """Begin with nothing told, when no other process is there."""
        self._map[_PEERS_AT : _PEERS_AT + _PEERS_MAX * _PEER.size] = bytes(_PEERS_MAX * _PEER.size)

    def _slot(self, peer: int) -> int | None:
        """Return where a peer's numbers are; there are never many."""
        for at in range(_PEERS_AT, _PEERS_AT + _PEERS_MAX * _PEER.size, _PEER.size):
            found: int = _HEAD.unpack_from(self._map, at)[0]
            if found == peer:
                return at
            if not found:
                return None
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Unmap."""
        self._map.close()
        os.close(self._fd)
