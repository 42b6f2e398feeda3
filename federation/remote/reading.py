"""Reading one blob from a remote: bytes are counted and unpacked, but not verified.

The reader, who stores the bytes, verifies them. So none is held back until the remote has ended the
stream: a reader that asks for more behind the last byte is told how the stream ended, and one that
has verified all bytes need not ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.store import CHUNK_BYTES, Chunks, NextBytes
from federation.remote import codec
from federation.remote.calls import Calls
from federation.remote.failures import FailureKind
from federation.remote.methods import READ
from federation.remote.streams import IncomingStream
from federation.wire.resource_name import read_name
from federation.wire.zstd import Decoder


class Pieces(Protocol):
    """The bytes of a blob in order."""

    async def next(self) -> bytes | None:
        """Return the next bytes, at least one; None after the last.

        Raises NotFound, RemoteFailed, behind the last ones too: then the remote sent more than
        there is, or said that something went wrong.
        """
        ...


class Waited:
    """Pieces, with the time that their reader has waited for them.

    What the reader does between them is its own: a slow disk says nothing about the remote.
    """

    def __init__(self, pieces: Pieces, clock: Clock, began_s: float) -> None:
        """began_s: when the call began, on the monotonic clock."""
        self.pieces = pieces
        self.seconds = clock.monotonic_s() - began_s
        self._clock = clock

    async def next(self) -> bytes | None:
        """See Pieces."""
        asked_s = self._clock.monotonic_s()
        piece = await self.pieces.next()
        self.seconds += self._clock.monotonic_s() - asked_s
        return piece


def open_plain(
    calls: Calls, remote: str, instance: str, digest: Digest, offset: int, end: int
) -> AbstractAsyncContextManager[Pieces]:
    """Read bytes offset..end as they are."""
    # No limit where none is needed: BuildGrid does not know of limits.
    limit = 0 if end == digest.size_bytes else end - offset
    request = codec.read_request(read_name(digest, instance), offset, limit)
    return _open_plain(calls, remote, request, end - offset, digest.size_bytes - offset)


@asynccontextmanager
async def _open_plain(
    calls: Calls, remote: str, request: bytes, wanted_bytes: int, most_bytes: int
) -> AsyncIterator[Pieces]:
    async with calls.incoming(READ, request) as stream:
        yield _Plain(remote, stream, wanted_bytes, most_bytes)


@asynccontextmanager
async def open_zstd(
    calls: Calls, remote: str, instance: str, digest: Digest
) -> AsyncIterator[Pieces]:
    """Read a whole blob, compressed on its way."""
    request = codec.read_request(read_name(digest, instance, compressed=True), 0, 0)
    async with calls.incoming(READ, request) as stream:
        yield _Zstd(remote, stream, digest.size_bytes)


class _Plain:
    """Plain bytes: the range that is wanted, of a stream that may go on to the end of the blob.

    Some servers do not know of limits (BuildGrid); more than the blob has, no server may send.
    """

    def __init__(
        self, remote: str, stream: IncomingStream, wanted_bytes: int, most_bytes: int
    ) -> None:
        self._remote = remote
        self._stream = stream
        self._wanted_bytes = wanted_bytes
        self._most_bytes = most_bytes
        self._got_bytes = 0

    async def next(self) -> bytes | None:
        if self._got_bytes >= self._wanted_bytes:
            await self._end()
            return None
        data = await _next_data(self._remote, self._stream)
        if data is None:
            detail = f"the stream ended after {self._got_bytes} of {self._wanted_bytes} bytes"
            raise self._stream.fail(FailureKind.SHORT, detail)
        self._got_bytes += len(data)
        # A server that does not know of limits goes on within the same message.
        excess_bytes = self._got_bytes - self._wanted_bytes
        return data[:-excess_bytes] if excess_bytes > 0 else data

    async def _end(self) -> None:
        if await self._goes_beyond():
            detail = f"it sent more than the {self._most_bytes} bytes that there are"
            raise self._stream.fail(FailureKind.OVERRUN, detail)

    async def _goes_beyond(self) -> bool:
        """Whether the stream has more bytes than the blob, after all wanted ones came."""
        # The last message had more. Behind a part of a blob that is no fault: see above.
        if self._got_bytes != self._wanted_bytes:
            return self._got_bytes > self._most_bytes
        # Waited for also behind a part: a call that ends by itself needs no reset.
        ended = await self._stream.end(partial(codec.read_size, self._remote))
        return not ended and self._wanted_bytes == self._most_bytes


class _Zstd:
    def __init__(self, remote: str, stream: IncomingStream, size_bytes: int) -> None:
        self._remote = remote
        self._stream = stream
        self._decoder = Decoder(size_bytes)
        self._left_bytes = size_bytes

    async def next(self) -> bytes | None:
        if self._left_bytes == 0:
            await self._end()
            return None
        while (piece := await self._pull()) is None:
            data = await _next_data(self._remote, self._stream)
            if data is None:
                detail = f"the zstd stream ended with {self._left_bytes} bytes to come"
                raise self._stream.fail(FailureKind.SHORT, detail)
            self._decoder.push(data)
        self._left_bytes -= len(piece)
        return piece

    async def _pull(self) -> bytes | None:
        try:
            # A kilobyte may unpack to megabytes, which would hold the event loop up.
            return await asyncio.to_thread(self._decoder.pull)
        except InvalidRequest as error:
            raise self._stream.fail(FailureKind.MALFORMED, str(error)) from None

    async def _end(self) -> None:
        """Let the call end: checksums and frames without content may follow the last byte."""
        await self._pull()  # raises where there is more
        await self._stream.end(partial(codec.read_size, self._remote))


async def _next_data(remote: str, stream: IncomingStream) -> bytes | None:
    message = await stream.next(partial(codec.read_size, remote))
    return None if message is None else codec.read_data(remote, message)


async def chunks_of(
    first: bytes, pieces: Pieces, next_bytes: NextBytes | None
) -> AsyncIterator[bytes]:
    """Yield the first piece and all that follow, in chunks as small as the reader asks for."""
    data: bytes | None = first
    while data is not None:
        # The usual case, in which nothing is copied.
        if next_bytes is None and len(data) <= CHUNK_BYTES:
            yield data
        else:
            at, view = 0, memoryview(data)
            while at < len(data):
                wanted = CHUNK_BYTES if next_bytes is None else max(next_bytes(), 1)
                size = min(wanted, CHUNK_BYTES, len(data) - at)
                yield data if size == len(data) else bytes(view[at : at + size])
                at += size
        data = await pieces.next()


async def no_chunks() -> Chunks:
    """Yield nothing."""
    empty: tuple[bytes, ...] = ()
    for nothing in empty:
        yield nothing
