"""What an upload sends: bytes in order, and again from an offset after a break."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

from federation.core.digest import Digest, new_hasher
from federation.core.errors import DigestMismatch
from federation.core.store import CHUNK_BYTES, Chunks
from federation.wire.zstd import Encoder

_TAIL_BYTES = 8 * 2**20  # more than what gRPC and the sockets hold of what was sent
_INLINE_BYTES = 64 * 1024  # hashing less costs less than handing it to a thread

OpenAt = Callable[[int], AbstractAsyncContextManager[Chunks]]


class Replay(Protocol):
    """A blob to be sent."""

    async def next(self) -> tuple[bytes, bool]:
        """Return the next 1 byte to CHUNK_BYTES, and whether they are the last.

        For an empty blob: b"" and True, once. Raises what its source raises, and DigestMismatch
        where the source's bytes are not those of the digest.
        """
        ...

    async def rewind(self, offset: int) -> bool:
        """Continue from this offset; False: its bytes are not available any more."""
        ...

    async def close(self) -> None:
        """Close the source."""
        ...


class OnceReplay:
    """Bytes that can be read once: verified on the way, with a tail kept for resuming."""

    def __init__(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        self._digest = digest
        self._chunks: AsyncIterator[bytes] = aiter(chunks)
        self._rest = memoryview(b"")
        self._hasher = new_hasher(digest.function)
        self._taken_bytes = 0  # from the source
        self._at = 0  # what next() returns
        self._tail: deque[tuple[int, bytes]] = deque()
        self._tail_bytes = 0

    async def next(self) -> tuple[bytes, bool]:
        """See Replay."""
        # After a rewind; otherwise the position is behind the whole tail.
        for start, data in self._tail:
            if start <= self._at < start + len(data):
                again = data[self._at - start :]
                self._at += len(again)
                return again, self._at == self._digest.size_bytes
        data = await self._take()
        self._keep(data)
        self._at += len(data)
        return data, self._at == self._digest.size_bytes

    async def _take(self) -> bytes:
        """Return the next bytes of the source; the last ones only if all bytes match the digest."""
        data = await self._pull()
        size = self._digest.size_bytes
        self._taken_bytes += len(data)
        if self._taken_bytes > size:
            raise DigestMismatch(self._digest, "more bytes were given")
        if len(data) > _INLINE_BYTES:
            await asyncio.to_thread(self._hasher.update, data)
        else:
            self._hasher.update(data)
        if not data and self._taken_bytes < size:
            raise DigestMismatch(self._digest, f"only {self._taken_bytes} bytes were given")
        if self._taken_bytes == size:
            # The last bytes are sent only once the source has ended: they let the remote commit.
            if data and await self._pull():
                raise DigestMismatch(self._digest, "more bytes were given")
            if self._hasher.digest() != self._digest.hash:
                raise DigestMismatch(self._digest, "other bytes were given")
        return data

    async def _pull(self) -> bytes:
        """Return what comes next, b"" after the end."""
        while not self._rest:
            try:
                self._rest = memoryview(await anext(self._chunks))
            except StopAsyncIteration:
                return b""
        data = bytes(self._rest[:CHUNK_BYTES])
        self._rest = self._rest[CHUNK_BYTES:]
        return data

    def _keep(self, data: bytes) -> None:
        self._tail.append((self._at, data))
        self._tail_bytes += len(data)
        while self._tail_bytes > _TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft()[1])

    async def rewind(self, offset: int) -> bool:
        """See Replay."""
        # Ahead of what was sent nothing is known, and before the tail nothing is left.
        if offset > self._at or (self._tail and offset < self._tail[0][0]):
            return False
        self._at = offset
        return True

    async def close(self) -> None:
        """See Replay. The owner of the source closes it."""


class ReopenReplay:
    """Bytes that can be read again, such as those of a store, which has verified them."""

    def __init__(self, digest: Digest, open_at: OpenAt) -> None:
        self._digest = digest
        self._open_at = open_at
        self._at = 0
        self._stack = AsyncExitStack()
        self._chunks: Chunks | None = None

    async def next(self) -> tuple[bytes, bool]:
        """See Replay."""
        if self._chunks is None:
            self._chunks = await self._stack.enter_async_context(self._open_at(self._at))
        data = await anext(self._chunks, b"")
        self._at += len(data)
        # The remote would hash gigabytes before it could say that the size is wrong.
        if self._at > self._digest.size_bytes or not (data or self._at == self._digest.size_bytes):
            raise DigestMismatch(self._digest, f"{self._at} bytes were given")
        return data, self._at == self._digest.size_bytes

    async def rewind(self, offset: int) -> bool:
        """See Replay."""
        if not 0 <= offset <= self._digest.size_bytes:
            return False
        await self.close()
        self._at = offset
        return True

    async def close(self) -> None:
        """See Replay."""
        self._chunks = None
        await self._stack.aclose()


class ZstdReplay:
    """The bytes of another replay as one zstd frame; it can only start over."""

    def __init__(self, plain: Replay) -> None:
        self._plain = plain
        self._encoder = Encoder()

    async def next(self) -> tuple[bytes, bool]:
        """See Replay; a message has what a few of the plain ones come to."""
        parts: list[bytes] = []
        size = 0
        last = False
        # Gathered, as well-compressed chunks would be messages of a few bytes.
        while not last and size < CHUNK_BYTES // 2:
            data, last = await self._plain.next()
            packed = await asyncio.to_thread(self._encode, data, last)
            parts.append(packed)
            size += len(packed)
        return b"".join(parts), last

    def _encode(self, data: bytes, last: bool) -> bytes:
        packed = self._encoder.encode(data)
        return packed + self._encoder.finish() if last else packed

    async def rewind(self, offset: int) -> bool:
        """See Replay."""
        # An offset counts compressed bytes, which come out the same only from the start.
        if offset != 0 or not await self._plain.rewind(0):
            return False
        self._encoder = Encoder()
        return True

    async def close(self) -> None:
        """See Replay."""
        await self._plain.close()
