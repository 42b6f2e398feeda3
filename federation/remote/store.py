"""A remote as a Store (federation.core.store): what it holds can be asked for, read and added to.

Silence is SourceUnavailable in one of the types of failures.py, never absence.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Collection,
    Sequence,
)
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from functools import partial
from typing import Any

import structlog

from federation.core import hops
from federation.core.digest import Digest, DigestFunction, new_hasher
from federation.core.errors import (
    BlobNotFound,
    FederationError,
    OffsetOutside,
    SourceUnavailable,
)
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.store import Chunks, NextBytes
from federation.remote import codec
from federation.remote.batches import Batches
from federation.remote.client import Remote
from federation.remote.compression import Zstd, ZstdOrPlain
from federation.remote.failures import FailureKind, NotFound, RemoteFailed, WrongBytes, failure
from federation.remote.methods import FIND_MISSING
from federation.remote.reading import Pieces, Waited, chunks_of, no_chunks, open_plain, open_zstd
from federation.remote.replay import OnceReplay, OpenAt, ReopenReplay
from federation.remote.uploads import BlobUploads
from federation.wire.digests import digest_list

_log = structlog.get_logger(__name__)
# Well below the 4 MiB that servers take in one message.
_FIND_MAX = 10_000  # digests in one FindMissingBlobs: 0.8 MB


class RemoteStore:
    """The blobs of one remote."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._calls = remote.calls
        self._instance = remote.settings.instance_name
        self._zstd = Zstd(remote)
        self._batches = Batches(
            remote.calls, remote.name, self._instance, self._note_wrong, self._zstd.rest
        )
        self._uploads = BlobUploads(remote, self._zstd)

    def __repr__(self) -> str:
        return f"<RemoteStore {self._remote!r}>"

    @property
    def remote(self) -> Remote:
        """The remote that holds the blobs."""
        return self._remote

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See Store. Raises RemoteFailed."""
        can = await self._remote.capabilities()
        missing: set[Digest] = set()
        for function in DigestFunction:
            # The empty blob is held by definition, and some servers call it missing.
            asked = [d for d in digests if d.function is function and not d.is_empty]
            if not can.hashes_with(function):
                missing.update(asked)  # it cannot even name them
                continue
            for at in range(0, len(asked), _FIND_MAX):
                part = asked[at : at + _FIND_MAX]
                listed = digest_list(part)
                request = codec.find_missing(self._instance, listed, function)
                try:
                    data = await self._calls.unary(FIND_MISSING, request)
                except NotFound as error:  # says nothing about any of them
                    raise self._odd(error) from None
                missing |= codec.missing_in(self._remote.name, data, part, listed)
        return missing

    @asynccontextmanager
    async def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AsyncIterator[Chunks]:
        """See Store. The bytes are counted but not verified: whoever stores them does that, and
        tells sent_wrong_bytes().

        Raises RemoteFailed on entry and while iterating; behind the last byte, too, where the
        remote says that something went wrong: who has verified all bytes need not ask.
        """
        if not 0 <= offset <= digest.size_bytes:
            raise OffsetOutside(digest, offset)
        end = digest.size_bytes if limit is None else min(offset + limit, digest.size_bytes)
        if digest.is_empty:
            yield no_chunks()
        elif end <= offset:  # the protocol cannot ask for nothing
            if await self.find_missing([digest]):
                raise BlobNotFound(digest)
            yield no_chunks()
        else:
            try:
                async with AsyncExitStack() as stack:
                    first, pieces = await self._open_patiently(stack, digest, offset, end)
                    chunks = chunks_of(first, pieces, next_bytes)
                    whole = end - offset == digest.size_bytes
                    yield self._timed(chunks, pieces, digest) if whole else chunks
            except NotFound:
                raise BlobNotFound(digest) from None

    async def _open_patiently(
        self, stack: AsyncExitStack, digest: Digest, offset: int, end: int
    ) -> tuple[bytes, Waited]:
        """See _open. Tries again where the remote takes no more calls at once."""
        until_s = self._remote.clock.monotonic_s() + self._remote.settings.request_timeout_s
        tries = 0
        while True:
            attempt = await stack.enter_async_context(AsyncExitStack())
            try:
                return await self._open(attempt, digest, offset, end)
            except RemoteFailed as error:
                await attempt.aclose()  # its slot is for others while this waits
                if not await self._calls.wait_to_try_again(error, tries, until_s):
                    raise
                tries += 1

    async def _open(
        self, stack: AsyncExitStack, digest: Digest, offset: int, end: int
    ) -> tuple[bytes, Waited]:
        """Return the first bytes, which prove that the blob is there, and the source of the others.

        Raises NotFound, RemoteFailed.
        """
        can = await self._remote.capabilities()
        if not can.hashes_with(digest.function):
            raise NotFound(f"{self._remote.name} does not know {digest.function.name}")
        whole = offset == 0 and end == digest.size_bytes
        began_s = self._remote.clock.monotonic_s()
        pieces: Pieces
        # A frame of zstd can only be read from its start, so parts of blobs travel plain.
        if whole and self._zstd.suits(can, digest):
            opening = open_zstd(self._calls, self._remote.name, self._instance, digest)
            plain = partial(self._open_plain, stack, digest, end=end)
            pieces = ZstdOrPlain(stack, opening, plain, self._zstd.rest, digest.size_bytes)
        else:
            pieces = await self._open_plain(stack, digest, offset, end)
        waited = Waited(pieces, self._remote.clock, began_s)
        first = await waited.next()
        assert first is not None
        return first, waited

    async def _timed(self, chunks: Chunks, waited: Waited, digest: Digest) -> Chunks:
        """Pass chunks on, and measure how long they were waited for."""
        async for chunk in chunks:
            yield chunk
        pieces = waited.pieces
        zstd = isinstance(pieces, ZstdOrPlain) and not pieces.is_plain
        self._zstd.way.took(digest.size_bytes, waited.seconds, zstd=zstd)

    async def _open_plain(
        self, stack: AsyncExitStack, digest: Digest, offset: int, end: int
    ) -> Pieces:
        opening = open_plain(self._calls, self._remote.name, self._instance, digest, offset, end)
        return await stack.enter_async_context(opening)

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See Store. Verified here before the remote may store it.

        The nodes of provenance go along as the request's hops.

        Several writes of one blob go one after the other, so that it is sent once. Raises
        DigestMismatch, RemoteFailed, and what chunks raises.
        """
        if digest.is_empty:
            return False
        async with self._uploads.turn(digest):
            with _coming_from(provenance):
                # The second writer mostly finds that the first has sent it.
                if not await self.find_missing([digest]):
                    return False
                return await self._uploads.send(digest, OnceReplay(digest, chunks))

    async def send(
        self,
        digest: Digest,
        open_at: OpenAt,
        *,
        provenance: Provenance = FROM_CLIENT,
        number: int | None = None,
        goes_on: bool = False,
    ) -> bool:
        """Write a blob that can be read again from any offset; call it when the remote misses it.

        open_at(offset) gives its bytes from there on, as open_read does. They are not verified
        here: they come from a store that has done so, and the remote does. With a number (128
        bits) an upload that broke may be gone on with later, by another call with the same one
        that says so. False: it was there.

        Raises RemoteFailed, and what open_at raises.
        """
        if digest.is_empty:
            return False
        with _coming_from(provenance):
            source = ReopenReplay(digest, open_at)
            return await self._uploads.send(digest, source, number, goes_on=goes_on)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See Store; every blob is verified, and None also where other bytes came.

        Raises RemoteFailed when it is not known of one whether it is held.
        """
        can = await self._remote.capabilities()
        # Each once: a repeated digest would be sent twice.
        wanted = [
            d for d in dict.fromkeys(digests) if not d.is_empty and can.hashes_with(d.function)
        ]
        use_zstd = self._zstd.suits_batch(can, sum(digest.size_bytes for digest in wanted))
        began_s = self._remote.clock.monotonic_s()
        found = await self._batches.read(wanted, can, use_zstd, self._read_whole)
        took_s = self._remote.clock.monotonic_s() - began_s
        came_bytes = sum(len(data) for data in found.values() if data is not None)
        self._zstd.batch_way.took(came_bytes, took_s, zstd=use_zstd)
        return [b"" if digest.is_empty else found.get(digest) for digest in digests]

    async def _read_whole(self, digest: Digest) -> bytes | None:
        hasher = new_hasher(digest.function)
        parts: list[bytes] = []
        got_bytes = 0
        try:
            async with self.open_read(digest) as chunks:
                async for chunk in chunks:
                    # Hashing megabytes would hold the event loop up for milliseconds.
                    await asyncio.to_thread(hasher.update, chunk)
                    parts.append(chunk)
                    got_bytes += len(chunk)
        except BlobNotFound:
            return None
        except RemoteFailed:
            # Behind the last byte only the hash decides.
            if got_bytes < digest.size_bytes:
                raise
        # Verified here, unlike open_read: the whole is in memory and nobody stores it first.
        if hasher.digest() != digest.hash:
            self.sent_wrong_bytes(digest)
            return None
        return b"".join(parts)

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], *, provenance: Provenance = FROM_CLIENT
    ) -> list[FederationError | None]:
        """See Store; what the remote did not answer for is a RemoteFailed in its place."""
        can = await self._remote.capabilities()
        size_bytes = sum(len(data) for _, data in blobs)
        use_zstd = self._zstd.suits_update(can, size_bytes)
        began_s = self._remote.clock.monotonic_s()
        with _coming_from(provenance):
            outcomes = await self._batches.write(blobs, can, use_zstd, self._write_one)
        # A batch with refusals took another time than its bytes would have.
        if not any(outcomes):
            took_s = self._remote.clock.monotonic_s() - began_s
            self._zstd.update_way.took(size_bytes, took_s, zstd=use_zstd)
        return outcomes

    async def _write_one(self, digest: Digest, data: bytes) -> FederationError | None:
        async def once() -> AsyncIterator[bytes]:
            yield data

        try:
            await self._uploads.send(digest, OnceReplay(digest, once()))
        except SourceUnavailable as error:
            return error
        return None

    def sent_wrong_bytes(self, digest: Digest) -> WrongBytes:
        """Count and log that bytes from open_read did not match the digest.

        Returns the error to raise. Compressed reads rest for a while, since they may be the cause.
        """
        self._note_wrong([digest])
        # The bytes do not say which way they were spoiled; plain ones next time settle it.
        self._zstd.rest("what it sent compressed may be at fault")
        return WrongBytes(
            self._remote.name, FailureKind.WRONG_BYTES, f"other bytes came for blob {digest}"
        )

    def _note_wrong(self, digests: Sequence[Digest]) -> None:
        self._remote.measures.wrong(len(digests))
        _log.warning(
            "remote_sent_wrong_bytes",
            remote=self._remote.name,
            blobs=len(digests),
            digest=str(digests[0]),
        )

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows beside Remote.describe."""
        return {"zstd_rests": self._zstd.rests}

    def _odd(self, error: NotFound) -> RemoteFailed:
        return failure(self._remote.name, FailureKind.INTERNAL, f"NOT_FOUND out of place: {error}")


def _coming_from(provenance: Provenance) -> AbstractContextManager[None]:
    """Have calls name the nodes that a blob has passed, or else those of the request."""
    via, passed = provenance.via, hops.current()
    return hops.serving(passed._replace(via=via, origin=via[0]) if via else passed)
