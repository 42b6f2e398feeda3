"""Notices at once when a blob's file is removed, replaced, cut or written behind the node's back.

The kernel reports such changes to the folders of blobs/ (inotify(7)) before the call that made them
returns. So one system call tells whether any file has changed since the last look, where a stat of
each file would take one call for each, and may wait for the disk. Files that are received here are
renamed from incoming/, and are no change.

Network and FUSE file systems do not report changes that are made elsewhere. There, and where the
kernel grants no more watches, nothing is watched (is_on is False).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

import structlog

_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_MODIFY, _MOVED_FROM, _MOVED_TO, _DELETE = 0x2, 0x40, 0x80, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _OVERFLOW, _IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
_ONLY_DIRECTORIES = 0x01000000
_CHANGES = _MODIFY | _MOVED_FROM | _MOVED_TO | _DELETE | _DELETE_SELF | _MOVE_SELF
_ENDS = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _OVERFLOW | _IGNORED  # some changes are not reported
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_ROOM_BYTES = 64 * 1024
_PLACING_MAX = 1000

# File systems whose changes all pass through this kernel: ext4, XFS, Btrfs, tmpfs, F2FS, ZFS,
# overlay, bcachefs, ramfs (statfs(2)).
_LOCAL = frozenset({
    0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x2FC12FC1, 0x794C7630, 0xCA451A4E,
    0x858458F6,
})  # fmt: skip
_STATFS_BYTES = 512  # more than the structure has; its first number is the type

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter's lock: the call never waits, and regaining the lock may take 5 ms.
_read = ctypes.PyDLL(None, use_errno=True).read
_read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_read.restype = ctypes.c_ssize_t

_log = structlog.get_logger(__name__)


class FileWatch:
    """Watches the folders of blobs/. start() blocks; everything else is for the event loop."""

    def __init__(self, blobs: Path, incoming: Path) -> None:
        self._blobs = blobs
        self._incoming = incoming
        self._fd: int | None = None
        self._incoming_watch = -1
        self._placing: set[int] = set()  # cookies of renames out of incoming/
        self._changes = 0
        self._room = ctypes.create_string_buffer(_ROOM_BYTES)
        self._room_at = ctypes.addressof(self._room)

    def __repr__(self) -> str:
        return f"<FileWatch {'on' if self.is_on else 'off'}, {self._changes} changes>"

    @property
    def is_on(self) -> bool:
        """Whether every change is noticed, as of the last call of changes()."""
        return self._fd is not None

    def start(self) -> None:
        """Begin to watch, unless that is not possible. Blocks; call it again while is_on is False.

        What was looked at before is not covered.
        """
        if self._fd is not None:
            return
        try:
            _check_local(self._blobs)
            fd = _checked(_libc.inotify_init1(_NONBLOCK | _CLOEXEC))
        except OSError as error:
            _log.info("files_not_watched", reason=str(error))
            return
        try:
            self._incoming_watch = _add(fd, self._incoming, _MOVED_FROM)
            _add(fd, self._blobs, _MOVED_FROM | _DELETE | _DELETE_SELF | _MOVE_SELF)
            for number in range(256):
                _add(fd, f"{self._blobs}/{number:02x}", _CHANGES)
        except OSError as error:
            os.close(fd)
            _log.info("files_not_watched", reason=str(error))
            return
        self._changes += 1
        # Last, as it says that every change is noticed.
        self._fd = fd

    def changes(self) -> int:
        """Return a number that differs after each change; it says nothing while is_on is False."""
        # To the end: what is not read yet may be the change of a file that somebody is about to
        # believe in.
        while self._fd is not None:
            size_bytes = _read(self._fd, self._room_at, _ROOM_BYTES)
            if size_bytes > 0:
                self._take(size_bytes)
                continue
            number = ctypes.get_errno()
            if number == errno.EAGAIN:
                break
            if number != errno.EINTR:
                self._end(os.strerror(number))
        return self._changes

    def _take(self, size_bytes: int) -> None:
        at, ends = 0, 0
        while at < size_bytes:
            watch, mask, cookie, name_bytes = _EVENT.unpack_from(self._room, at)
            at += _EVENT.size + name_bytes
            ends |= mask & _ENDS
            if watch == self._incoming_watch and mask & _MOVED_FROM:
                if len(self._placing) >= _PLACING_MAX:  # most of them went elsewhere
                    self._placing.clear()
                self._placing.add(cookie)
            # The second half of a rename out of incoming/: an upload that gets its name.
            elif mask & _MOVED_TO and cookie in self._placing:
                self._placing.discard(cookie)
            else:
                self._changes += 1
        if ends:
            self._end("a folder is gone, or there were too many changes at once")

    def _end(self, reason: str) -> None:
        _log.info("files_not_watched", reason=reason)
        self.close()

    def close(self) -> None:
        """End watching."""
        fd, self._fd = self._fd, None
        self._placing.clear()
        self._changes += 1
        if fd is not None:
            os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _add(fd: int, folder: Path | str, mask: int) -> int:
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(folder), mask | _ONLY_DIRECTORIES))


def _check_local(folder: Path) -> None:
    """Raise OSError unless all changes of this file system pass through this kernel."""
    facts = ctypes.create_string_buffer(_STATFS_BYTES)
    _checked(_libc.statfs(os.fsencode(folder), facts))
    kind = ctypes.c_long.from_buffer(facts).value & 0xFFFFFFFF
    if kind not in _LOCAL:
        raise OSError(errno.EOPNOTSUPP, f"a file system of type {kind:#x} is not watched")
