"""What of a file is in memory can be sent from there (cachestat, Linux 6.5)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from federation.core.store import FilePart

_SYSCALL = 451  # the same number on every architecture
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_IF_CACHED: int | None = getattr(os, "RWF_NOWAIT", None)

_syscall = ctypes.CDLL(None).syscall
_syscall.restype = ctypes.c_long


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Found(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def is_cached(fd: int, offset: int, size_bytes: int) -> bool:
    """Return whether these bytes can be sent without waiting for the disk; False: not known.

    Never waits. Pages that are being read count as cached for the kernel, and come in order: the
    last byte is read to see whether it has come.
    """
    if _IF_CACHED is None or size_bytes <= 0:
        return False
    asked, found = _Range(offset, size_bytes), _Found()
    if _syscall(_SYSCALL, fd, ctypes.byref(asked), ctypes.byref(found), 0):
        return False  # an older kernel, or a file system without pages
    pages = (offset + size_bytes - 1) // _PAGE_BYTES - offset // _PAGE_BYTES + 1
    if found.cached < pages:
        return False
    try:
        return os.preadv(fd, [bytearray(1)], offset + size_bytes - 1, _IF_CACHED) == 1
    except OSError:
        return False


class FileChunks:
    """The chunks of a blob in a file; implements InFile."""

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], next_part: Callable[[int], FilePart | None]
    ) -> None:
        self._chunks = chunks
        self.next_part = next_part

    def __repr__(self) -> str:
        return f"<FileChunks {self._chunks!r}>"

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        """Return the next chunk."""
        return self._chunks.__anext__()

    async def aclose(self) -> None:
        """End the generator."""
        await self._chunks.aclose()
