"""Answers GET and HEAD with a blob, or a range of it, streamed within the bounds of all readers."""

from __future__ import annotations

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound
from federation.core.store import InFile, LocalStore
from federation.http_cache.answer_head import Fields
from federation.http_cache.byte_range import ByteRange, RangeOutside, is_unchanged, range_of
from federation.http_cache.http_call import HttpCall, http_of
from federation.observability.metrics import Metrics
from federation.observability.traffic import InstanceTraffic
from federation.services.call import Call
from federation.services.method import Send
from federation.services.read_pacing import Budgets, ReadPacing
from federation.wire.chunk_sizer import SMALL_BYTES

_AT_ONCE_BYTES = 2**16  # sent together with the head of the answer
_BINARY = ("Content-Type", "application/octet-stream")
_RANGES = ("Accept-Ranges", "bytes")


class BlobSender:
    """Sends blobs of one store."""

    def __init__(
        self,
        store: LocalStore,
        presence: LocalStore,
        presence_for_pushers: LocalStore,
        clock: Clock,
        metrics: Metrics,
        budgets: Budgets,
    ) -> None:
        """presence: says what a read would find; for callers that may push: what is held here."""
        self._store = store
        self._presence = presence
        self._presence_for_pushers = presence_for_pushers
        self._clock = clock
        self._budgets = budgets
        self._traffic = metrics.traffic

    async def answer(self, digest: Digest, fields: Fields, send: Send, call: Call) -> bytes:
        """Answer with the blob; return the last part of it.

        Raises BlobNotFound before anything is sent, and what Store.open_read raises.
        """
        http = http_of(call)
        etag = f'"{digest.hash_hex}"'
        fields = (_BINARY, ("ETag", etag), _RANGES, *fields)
        if is_unchanged(http.field("If-None-Match"), etag):
            await self._check_held(digest, call)
            http.answers(304, fields)
            http.begin(0)
            return b""
        try:
            asked = range_of(http.field("Range"), http.field("If-Range"), etag, digest.size_bytes)
        except RangeOutside:
            http.answers(416, (("Content-Range", f"bytes */{digest.size_bytes}"),))
            return b""
        if http.method == "HEAD":
            await self._check_held(digest, call)
            http.answers(200, fields)
            http.begin(digest.size_bytes)
            return b""
        if asked is None and 0 < digest.size_bytes <= _AT_ONCE_BYTES:
            data = self._store.read_at_once(digest)
            if data is not None:
                self._traffic.of(http.target.instance).out_bytes += len(data)
                http.answers(200, fields)
                return data
        return await self._read(digest, asked, fields, send, http)

    async def _check_held(self, digest: Digest, call: Call) -> None:
        may_push = call.rights.may_push(http_of(call).target.instance)
        asked = self._presence_for_pushers if may_push else self._presence
        if await call.in_time(asked.find_missing([digest])):
            raise BlobNotFound(digest)

    async def _read(
        self, digest: Digest, asked: ByteRange | None, fields: Fields, send: Send, http: HttpCall
    ) -> bytes:
        traffic = self._traffic.of(http.target.instance)
        whole = asked is None
        offset, size_bytes = asked or ByteRange(0, digest.size_bytes)
        pace = ReadPacing(self._clock, self._budgets, size_bytes)
        parts = http.sends_files and size_bytes > _AT_ONCE_BYTES
        begun = False

        def next_bytes() -> int:
            # The first chunk is read to find out whether the blob is here: what follows it may
            # leave by sendfile.
            return pace.next_bytes() if begun or not parts else SMALL_BYTES

        opened = self._store.open_read(
            digest,
            offset=offset,
            limit=None if whole else size_bytes,
            next_bytes=next_bytes,
        )
        try:
            async with opened as chunks:
                if asked is None:
                    http.answers(200, fields)
                else:
                    shown = ("Content-Range", asked.content_range(digest.size_bytes))
                    http.answers(206, (*fields, shown))
                http.begin(size_bytes)
                if size_bytes <= _AT_ONCE_BYTES:  # all of them: ending a generator early costs more
                    small = b"".join([data async for data in chunks])
                    traffic.out_bytes += len(small)
                    return small
                in_file = chunks if parts and isinstance(chunks, InFile) else None
                async for data in chunks:
                    begun = True
                    traffic.out_bytes += len(data)
                    sent_bytes, handed_on = len(data), [data]
                    del data  # kept neither here nor in the store while the client takes it
                    pace.begin()
                    await send(handed_on.pop())
                    pace.sent(sent_bytes)
                    if in_file is not None:
                        await self._send_parts(in_file, pace, send, traffic)
                return b""
        finally:
            pace.close()

    async def _send_parts(
        self, chunks: InFile, pace: ReadPacing, send: Send, traffic: InstanceTraffic
    ) -> None:
        """Send what follows, as long as it is in the page cache, without copying it."""
        pace.close()  # it takes no memory
        while (part := chunks.next_part(pace.speed_bytes)) is not None:
            traffic.out_bytes += part.size_bytes
            pace.begin()
            await send(part)
            pace.sent(part.size_bytes)
