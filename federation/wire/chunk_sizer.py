"""Chooses the size of the next chunk of a read.

Large chunks cost the least CPU per byte, here and at the reader; small ones need the least memory
while a reader is slow. A fast write says little at first: it may only have filled the reader's
flow-control window of megabytes, and then the next chunk waits here. So the chunks of a long read
grow with the number of bytes that the reader has taken. A short read is over before that, so its
second chunk is large, once the first shows that the reader takes anything. As soon as one write is
slow, chunks become as small as its speed is low.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL_BYTES = 32 * 1024
LARGE_BYTES = 2 * 1024 * 1024
SHORT_BYTES = 16 * 1024 * 1024  # a read of at most this
_OF_SHORT_BYTES = LARGE_BYTES // 2  # a chunk of a short read
_SHARE = 8  # a chunk grows to at most this part of what the reader has taken
_SLOW_BYTES_PER_S = 4e6
_CHUNK_S = 0.5  # how long a slow reader takes for a chunk, at most


@dataclass(slots=True)
class ChunkSizer:
    """The chunk size of one stream; a power of two."""

    chunk_bytes: int = SMALL_BYTES
    _taken_bytes: int = 0
    is_slow: bool = False  # the reader, with the last chunk
    _is_short: bool = False  # the read

    @classmethod
    def for_read(cls, size_bytes: int) -> ChunkSizer:
        """Return the sizer for a read of this many bytes.

        What fits one large chunk goes out as one: there is nothing to learn from a reader of that
        little, and 32 chunks of a megabyte cost five times the CPU of one.
        """
        if size_bytes <= LARGE_BYTES:
            return cls(LARGE_BYTES)
        return cls(_is_short=size_bytes <= SHORT_BYTES)

    def wrote(self, size_bytes: int, seconds: float) -> None:
        """Record that the reader took a chunk of this size in this time.

        A slow one need not be the reader's fault: with many readers at once, this node is.
        """
        # A product and no quotient: a write may take no time at all.
        self.is_slow = size_bytes < _SLOW_BYTES_PER_S * seconds
        if self._is_short:
            self.chunk_bytes = _OF_SHORT_BYTES
        if self.is_slow:
            # What it took before says nothing about it any more.
            self._taken_bytes = 0
            while self.chunk_bytes > SMALL_BYTES and (
                self.chunk_bytes * seconds > _CHUNK_S * size_bytes
            ):
                self.chunk_bytes //= 2
            return
        self._taken_bytes += size_bytes
        # Twice: the chunk that comes next may be an eighth of what was taken, at most.
        while self.chunk_bytes < LARGE_BYTES and self._taken_bytes >= 2 * self.chunk_bytes * _SHARE:
            self.chunk_bytes *= 2
