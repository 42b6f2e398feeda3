"""ByteStream.Read: a blob, or a part of it, in many messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, InvalidRequest, OffsetOutside
from federation.core.store import Chunks, LocalStore
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.cpu_pool import Compute
from federation.services.method import (
    SMALL_ANSWER,
    Parts,
    Responses,
)
from federation.services.read_pacing import Budgets, ReadPacing
from federation.wire.bytestream_codec import (
    ReadRequest,
    decode_read_request,
    read_response_head,
)
from federation.wire.resource_name import ReadName, parse_read
from federation.wire.zstd import Encoder

_AT_ONCE_READ_BYTES = SMALL_ANSWER - 16  # without the field around them


class ReadCalls:
    """Read over a store."""

    def __init__(
        self,
        store: LocalStore,
        clock: Clock,
        metrics: Metrics,
        budgets: Budgets,
        compute: Compute,
    ) -> None:
        self._store = store
        self._clock = clock
        self._budgets = budgets
        self._compute = compute
        self._traffic = metrics.traffic

    def read_at_once(self, request: bytes, call: Call) -> bytes | None:
        """Return the only message of a small blob's answer; None if that has to wait."""
        asked = decode_read_request(request)
        name = parse_read(asked.resource_name)
        # Rare for small blobs: read() serves them as it does large ones.
        if asked.read_offset or asked.read_limit or name.compressed:
            return None
        if not 0 < name.digest.size_bytes <= _AT_ONCE_READ_BYTES:
            return None
        call.check_pull(name.instance)
        traffic = self._traffic.of(name.instance)
        try:
            data = self._store.read_at_once(name.digest)
        except BlobNotFound:
            traffic.blobs.misses += 1
            raise
        if data is None:
            return None
        traffic.blobs.hits += 1
        traffic.out_bytes += len(data)
        return read_response_head(len(data)) + data

    async def read(self, request: bytes, call: Call) -> Responses:
        """Send the bytes asked for; a blob that is not held is NOT_FOUND before any."""
        asked = decode_read_request(request)
        name = parse_read(asked.resource_name)
        call.check_pull(name.instance)
        traffic = self._traffic.of(name.instance)
        limit = _check(asked, name)
        left_bytes = name.digest.size_bytes - asked.read_offset
        size_bytes = left_bytes if limit is None else min(limit, left_bytes)
        pace = ReadPacing(self._clock, self._budgets, size_bytes)
        try:
            opened = self._store.open_read(
                name.digest, offset=asked.read_offset, limit=limit, next_bytes=pace.next_bytes
            )
            # Entering raises BlobNotFound, so nothing has been sent by then.
            async with opened as chunks:
                traffic.blobs.hits += 1
                packed = aclosing(self._compress(chunks)) if name.compressed else None
                async with packed or nullcontext(chunks) as sent:
                    async for data in sent:
                        sent_bytes = len(data)
                        # In a list, so that the yield itself takes the last reference: a slow
                        # reader holds no second copy.
                        handed_on = [_response(data)]
                        del data  # it must not be kept here during the wait
                        pace.begin()
                        yield handed_on.pop()
                        pace.sent(sent_bytes)
                        traffic.out_bytes += sent_bytes
        except BlobNotFound:
            traffic.blobs.misses += 1
            raise
        finally:
            pace.close()

    async def _compress(self, chunks: Chunks) -> AsyncGenerator[bytes, None]:
        encoder = Encoder()
        async for chunk in chunks:
            if data := await self._compute.run(len(chunk), encoder.encode, chunk):
                yield data
        # Also of an empty blob: its zstd frame is not empty.
        yield encoder.finish()


def _response(data: bytes) -> bytes | Parts:
    # Without data the field is left out (proto3), so the message is empty.
    return Parts(read_response_head(len(data)), data) if data else b""


def _check(asked: ReadRequest, name: ReadName) -> int | None:
    """Return the limit, None for none. Raises InvalidRequest, OffsetOutside."""
    digest: Digest = name.digest
    if name.compressed and asked.read_limit:
        raise InvalidRequest("read_limit with compressed-blobs (REAPI: it must be 0)")
    if asked.read_limit < 0:
        raise InvalidRequest(f"read_limit {asked.read_limit} is negative")
    if not 0 <= asked.read_offset <= digest.size_bytes:
        raise OffsetOutside(digest, asked.read_offset)
    return asked.read_limit or None
