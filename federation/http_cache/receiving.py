"""Stores the body of a PUT as a blob: streamed, within the bounds of all uploads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import BlobTooLarge, RequestTooLarge, Stalled, StorageFull
from federation.core.store import Ingest, LocalStore
from federation.http_cache.http_call import HttpCall, http_of
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.request_stream import RequestStream
from federation.services.uploads import Uploads
from federation.wire.upload import StreamProgress

_AT_ONCE_BYTES = 64 * 1024  # stored as a batch of one


class BodyReceiver:
    """Receives bodies for one store."""

    def __init__(
        self,
        store: LocalStore,
        uploads: Uploads,
        limits: LimitsConfig,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._limits = limits
        self._clock = clock
        self._traffic = metrics.traffic

    async def receive(
        self,
        requests: RequestStream,
        call: Call,
        function: DigestFunction = DigestFunction.SHA256,
        raw_hash: bytes | None = None,
    ) -> Digest:
        """Store the body; return its digest, durably stored.

        raw_hash: what it must hash to; None: anything. A body that is held is not read.

        Raises DigestMismatch, BlobTooLarge, StorageFull, StorageFailed, TooBusy, Stalled.
        """
        http = http_of(call)
        digest = None
        if raw_hash is not None and http.length is not None:
            digest = Digest(raw_hash, http.length, function)
            # Only with a length: hash and size together are the name.
            if await self._store.accept_held(digest, provenance=call.provenance):
                return digest
        pieces = self.pieces(requests, call)
        return await self.store(pieces, call, function, raw_hash, digest)

    async def store(
        self,
        pieces: AsyncIterator[bytes],
        call: Call,
        function: DigestFunction = DigestFunction.SHA256,
        raw_hash: bytes | None = None,
        digest: Digest | None = None,
    ) -> Digest:
        """Store a body that is given in pieces; else as receive(). digest: what it must be."""
        http = http_of(call)
        # Clients treat "too large" and "no room" differently: see statuses.py.
        with noting_size(http):
            if http.length is not None and http.length <= _AT_ONCE_BYTES:
                data = b"".join([piece async for piece in pieces])
                # Where a hash was demanded, and no size, begin_unsized compares it.
                named = digest or digest_of(data, function)
                try:
                    return await self._store_at_once(named, data, call)
                except StorageFull:
                    pieces = as_pieces(data)  # below, parked uploads are dropped to make room
            begin = self._begin(digest, function, raw_hash, call)
            async with self._uploads.once(begin, call.caller) as receiver:
                async for piece in pieces:
                    await receiver.put(piece)
                await receiver.finish()
                return receiver.digest

    def _begin(
        self, digest: Digest | None, function: DigestFunction, raw_hash: bytes | None, call: Call
    ) -> Callable[[], Ingest]:
        if digest is not None:
            return partial(self._store.begin, digest, provenance=call.provenance)
        return partial(
            self._store.begin_unsized,
            function,
            raw_hash,
            announced_bytes=http_of(call).length or 0,
            provenance=call.provenance,
        )

    async def _store_at_once(self, digest: Digest, data: bytes, call: Call) -> Digest:
        (refusal,) = await self._store.write_small([(digest, data)], provenance=call.provenance)
        if refusal is not None:
            raise refusal
        return digest

    async def pieces(self, requests: RequestStream, call: Call) -> AsyncIterator[bytes]:
        """Yield a body's pieces. Raises Stalled for one that hardly comes."""
        stall_s = self._limits.stall
        traffic = self._traffic.of(http_of(call).target.instance)
        progress = StreamProgress(stall_s, self._clock.monotonic_s())
        while (piece := await requests.next(stall_s)) is not None:
            if not progress.saw(len(piece), self._clock.monotonic_s()):
                raise Stalled(f"almost no data came for {stall_s:g} s")
            traffic.in_bytes += len(piece)
            yield piece

    async def read_small(self, requests: RequestStream, call: Call, most_bytes: int) -> bytes:
        """Return a body that is small. Raises RequestTooLarge, Stalled."""
        found = bytearray()
        async for piece in self.pieces(requests, call):
            found += piece
            if len(found) > most_bytes:
                with noting_size(http_of(call)):
                    text = f"a body of more than {most_bytes} bytes"
                    raise RequestTooLarge("body.bytes", text)
        return bytes(found)


async def as_pieces(first: bytes, rest: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    """Yield what was read already, and then the rest."""
    if first:
        yield first
    if rest is not None:
        async for piece in rest:
            yield piece


@contextmanager
def noting_size(http: HttpCall) -> Iterator[None]:
    """Note on the call that it is refused for the size of what it brings."""
    try:
        yield
    except (BlobTooLarge, RequestTooLarge):
        http.is_too_large = True
        raise
