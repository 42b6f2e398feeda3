"""Chooses the size of the next chunk of a read.

Large chunks cost the least CPU per byte; small ones need the least memory while a reader is slow.
A fast write says little at first: it may only have filled the reader's flow-control window of
megabytes, and then the next chunk waits here. So chunks grow with the number of bytes that the
reader has taken, and become small again as soon as one write is slow.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL_BYTES = 32 * 1024
LARGE_BYTES = 2 * 1024 * 1024
_SHARE = 8  # a chunk is at most this part of what the reader has taken
_SLOW_BYTES_PER_S = 4e6  # at 2 MiB a chunk, half a second between two


@dataclass(slots=True)
class ChunkSizer:
    """The chunk size of one stream; a power of two."""

    chunk_bytes: int = SMALL_BYTES
    _taken_bytes: int = 0

    @classmethod
    def for_read(cls, size_bytes: int) -> ChunkSizer:
        """Return the sizer for a read of this many bytes.

        What fits one large chunk goes out as one: there is nothing to learn from a reader of that
        little, and 32 chunks of a megabyte cost five times the CPU of one.
        """
        return cls(LARGE_BYTES if size_bytes <= LARGE_BYTES else SMALL_BYTES)

    def wrote(self, size_bytes: int, seconds: float) -> None:
        """Record that the reader took a chunk of this size in this time."""
        if size_bytes < _SLOW_BYTES_PER_S * seconds:
            self.chunk_bytes = SMALL_BYTES
            self._taken_bytes = 0
            return
        self._taken_bytes += size_bytes
        while self.chunk_bytes < LARGE_BYTES and self._taken_bytes >= 2 * self.chunk_bytes * _SHARE:
            self.chunk_bytes *= 2
