"""Look-ups that the event loop makes itself, in the pages of the catalogue that are in memory.

A hop to a thread and back takes several times as long as looking up a few rows. But the event loop
must never wait for a disk or a lock, and nobody knows in advance which pages a look-up needs. So
this connection has a VFS of its own: it reads what the page cache holds (RWF_NOWAIT), and ends the
look-up at the first page that is not there. It does not wait for locks either. The caller then asks
a thread, whose read brings the page into memory.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import apsw

from federation.core.clock import Clock
from federation.storage.catalogue import schema
from federation.storage.catalogue.schema import UNREADABLE

_T = TypeVar("_T")

_IF_RESIDENT: int | None = getattr(os, "RWF_NOWAIT", None)
_READ_KINDS = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL
# Each commit of another connection empties this cache, which takes longer the larger it is.
_CACHE_KIB = 2_000
_TURN_S = 0.01  # of look-ups in one turn of the loop; then others have theirs
# Whatever else makes look-ups slow (the interpreter's lock, a page of shared memory that is swapped
# out), the event loop loses at most a hundredth of its time to it. A process that just waited for a
# processor looks the same, hence two in a row.
_SLOW_S = 0.01
_SLOW_IN_A_ROW = 2
_PAUSE_FACTOR = 100


class ResidentCatalogue:
    """A connection of the event loop's own. Used from the event loop only, but for open()."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._vfs: _ResidentVfs | None = None
        self._connection: apsw.Connection | None = None
        self._paused_until_s = 0.0
        self._slow = 0  # that many in a row
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_ends: asyncio.Handle | None = None
        self._turn_s = 0.0  # taken in this turn

    def __repr__(self) -> str:
        return f"<ResidentCatalogue {'open' if self._connection is not None else 'closed'}>"

    def open(self) -> None:
        """Connect, which reads the schema; blocks. Without success, look() returns None."""
        if _IF_RESIDENT is None:
            return
        vfs = self._vfs = _ResidentVfs(f"resident-{id(self)}")
        with suppress(*UNREADABLE, OSError):
            connection = schema.connect(
                self._path, read_only=True, cache_kib=_CACHE_KIB, busy_ms=0, vfs=vfs.vfs_name
            )
            vfs.may_wait = False
            if vfs.is_able:
                self._connection = connection
            else:
                connection.close()

    def look(self, work: Callable[[apsw.Connection], _T]) -> _T | None:
        """Return what work finds; None: it would have to wait, so that a thread has to do it.

        work ends soon, whatever it finds. It may raise BlockingIOError to leave the rest to a
        thread, too. So does whatever makes the catalogue unreadable: the thread reports that.
        """
        connection, begun_s = self._connection, self._clock.monotonic_s()
        if connection is None or begun_s < self._paused_until_s or self._turn_s > _TURN_S:
            return None
        try:
            found = work(connection)
        # Nothing is reported here: the thread that looks next meets the same error, and reports it.
        except (*UNREADABLE, OSError):
            found = None
        self._note(begun_s, self._clock.monotonic_s())
        return found

    def _note(self, begun_s: float, ended_s: float) -> None:
        took_s = ended_s - begun_s
        self._slow = self._slow + 1 if took_s > _SLOW_S else 0
        if self._slow >= _SLOW_IN_A_ROW:
            self._slow = 0
            self._paused_until_s = ended_s + _PAUSE_FACTOR * took_s
        self._turn_s += took_s
        if self._turn_ends is None:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._turn_ends = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_ends = None
        self._turn_s = 0.0

    def close(self) -> None:
        """Close the connection; look() returns None from now on."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def release(self) -> None:
        """Close the descriptors, once this process has closed all its other connections.

        Closing any descriptor of a file drops all the process's locks on it (fcntl), also those
        of the connections, without which another process might delete the write-ahead log.
        """
        vfs, self._vfs = self._vfs, None
        if vfs is not None:
            vfs.release()


class _ResidentVfs(apsw.VFS):
    """SQLite's usual VFS, but for what it reads of the catalogue and its write-ahead log."""

    def __init__(self, vfs_name: str) -> None:
        super().__init__(vfs_name, "")
        self.vfs_name = vfs_name
        self.may_wait = True  # until the connection is made
        self.is_able = True  # the file system says which pages are in memory
        self._open: dict[str, int] = {}

    def xOpen(  # noqa: N802 - SQLite's name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        if name is None or not flags[0] & _READ_KINDS:
            return super().xOpen(name, flags)
        path = name if isinstance(name, str) else name.filename()
        return _ResidentFile(self, name, path, flags)

    def xSleep(self, microseconds: int) -> int:  # noqa: N802 - SQLite's name
        """Wait for nobody: SQLite tries a hundred times at most, and then gives up."""
        return super().xSleep(microseconds) if self.may_wait else microseconds

    def descriptor(self, path: str) -> int:
        """Return one of the file, opened at the first time."""
        fd = self._open.get(path)
        if fd is None:
            fd = self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return fd

    def release(self) -> None:
        """See ResidentCatalogue."""
        self.unregister()
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


class _ResidentFile(apsw.VFSFile):
    def __init__(
        self, vfs: _ResidentVfs, name: str | apsw.URIFilename, path: str, flags: list[int]
    ) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._fd = vfs.descriptor(path)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        """Read. Raises BlockingIOError for what is not in memory."""
        if self._vfs.may_wait:
            self._try(offset)
            return super().xRead(amount, offset)
        assert _IF_RESIDENT is not None
        data = bytearray(amount)
        size_bytes = os.preadv(self._fd, (data,), offset, _IF_RESIDENT)
        if size_bytes == amount:
            return bytes(data)
        # The end of the file, or of what is in memory: then the rest must not look empty.
        if offset + size_bytes < os.fstat(self._fd).st_size:
            raise BlockingIOError(errno.EAGAIN, "not in memory")
        return bytes(data[:size_bytes])

    def _try(self, offset: int) -> None:
        try:
            assert _IF_RESIDENT is not None
            os.preadv(self._fd, (bytearray(1),), offset, _IF_RESIDENT)
        except BlockingIOError:
            return
        except OSError:
            self._vfs.is_able = False
