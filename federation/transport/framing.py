"""gRPC's messages in the data of a stream: a flag, a length, the bytes (PROTOCOL-HTTP2.md).

Pure. What has come is held in few pieces, however small the frames were that it came in.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Final, NamedTuple

PREFIX_BYTES: Final = 5
ENCODINGS: Final = ("identity", "deflate", "gzip")  # those that grpcio's server takes
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_SMALL_BYTES = 2**10  # smaller pieces are put together, as each costs about a hundred bytes
_PIECE_BYTES = 2**14


class MalformedMessage(Exception):
    """The bytes of a stream are no gRPC messages."""


class TooLong(Exception):
    """A message is longer than it may be; size_bytes: how long, as far as is known."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


class Packed(NamedTuple):
    """A message as it came."""

    compressed: bool
    data: bytes


class Messages:
    """What has come of one stream, and is not taken yet."""

    __slots__ = ("_most_bytes", "_offset", "_pieces", "held_bytes")

    def __init__(self, most_bytes: int) -> None:
        """most_bytes: of one message, as it comes."""
        self._most_bytes = most_bytes
        self._pieces: deque[bytes | bytearray] = deque()
        self._offset = 0  # of what is not taken in the first piece
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Messages {self.held_bytes} bytes in {len(self._pieces)} pieces>"

    def add(self, data: bytes) -> None:
        """Append what came."""
        if not data:
            return
        self.held_bytes += len(data)
        if len(data) < _SMALL_BYTES and self._pieces:
            last = self._pieces[-1]
            if isinstance(last, bytearray) and len(last) < _PIECE_BYTES:
                last += data
                return
            self._pieces.append(bytearray(data))
            return
        self._pieces.append(data)

    def clear(self) -> None:
        """Drop everything."""
        self._pieces.clear()
        self._offset = self.held_bytes = 0

    def next_size(self) -> int | None:
        """Return how many bytes the next message has; None: that has not come yet.

        Raises MalformedMessage, TooLong.
        """
        if self.held_bytes < PREFIX_BYTES:
            return None
        prefix = self._peek(PREFIX_BYTES)
        if prefix[0] > 1:
            raise MalformedMessage(
                f"a message begins with the byte {prefix[0]}, which is neither 0 nor 1"
            )
        size_bytes = int.from_bytes(prefix[1:], "big")
        if size_bytes > self._most_bytes:
            raise TooLong(size_bytes)
        return size_bytes

    def take(self) -> Packed | None:
        """Return the next message once all of it is here. Raises as next_size does."""
        size_bytes = self.next_size()
        if size_bytes is None or self.held_bytes < PREFIX_BYTES + size_bytes:
            return None
        compressed = self._peek(1)[0] == 1
        self._cut(PREFIX_BYTES)
        return Packed(compressed, self._cut(size_bytes))

    def only(self) -> bytes | None:
        """Return the message if it is all that came, in one piece and uncompressed; it stays."""
        if len(self._pieces) != 1 or self._offset:
            return None
        piece = self._pieces[0]
        if piece[0] or len(piece) < PREFIX_BYTES:
            return None
        if int.from_bytes(piece[1:PREFIX_BYTES], "big") != len(piece) - PREFIX_BYTES:
            return None
        return bytes(piece[PREFIX_BYTES:])

    def _peek(self, count: int) -> bytes:
        first = self._pieces[0]
        found = bytes(first[self._offset : self._offset + count])
        at = 1
        while len(found) < count:
            found += self._pieces[at][: count - len(found)]
            at += 1
        return found

    def _cut(self, count: int) -> bytes:
        """Return the first bytes, and drop them."""
        self.held_bytes -= count
        parts: list[bytes | bytearray | memoryview] = []
        while count:
            first, begin = self._pieces[0], self._offset
            end = min(begin + count, len(first))
            count -= end - begin
            if end == len(first):
                self._pieces.popleft()
                self._offset = 0
            else:
                self._offset = end
            whole = begin == 0 and end == len(first)
            parts.append(first if whole else memoryview(first)[begin:end])
        if len(parts) == 1:
            return bytes(parts[0])
        return b"".join(parts)


def prefix_of(size_bytes: int) -> bytes:
    """Return what comes before an uncompressed message of this size."""
    return b"\0" + size_bytes.to_bytes(4, "big")


def unpack(data: bytes, encoding: str, most_bytes: int) -> bytes:
    """Return a compressed message's bytes, at most so many; blocks for 2 ms a MiB.

    Raises MalformedMessage, TooLong.
    """
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise MalformedMessage(f"a message is compressed, and grpc-encoding is {encoding}")
    decoder = zlib.decompressobj(bits)
    try:
        found = decoder.decompress(data, most_bytes + 1)
    except zlib.error as error:
        raise MalformedMessage(f"a message is not valid {encoding} ({error})") from None
    if len(found) > most_bytes:
        raise TooLong(len(found))
    if not decoder.eof:
        raise MalformedMessage(f"a message is {encoding} that is cut short")
    return found
