"""google.bytestream.ByteStream: one blob in each call, in many messages, plain or as zstd."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import InvalidRequest, Stalled, StorageFull
from federation.core.memory_budget import MemoryBudget
from federation.core.store import LocalStore
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LimitHits
from federation.observability.traffic import InstanceTraffic
from federation.services.bytestream_read import ReadCalls
from federation.services.call import Call
from federation.services.cpu_pool import Compute
from federation.services.method import (
    SMALL_REQUEST,
    ClientStream,
    Method,
    ServerStream,
    Unary,
)
from federation.services.read_pacing import Budgets
from federation.services.receiver import UploadReceiver
from federation.services.request_stream import RequestStream
from federation.services.uploads import OpenUpload, Uploads
from federation.wire.bytestream_codec import (
    WriteRequest,
    decode_query_request,
    decode_write_request,
    encode_query_response,
    encode_write_response,
)
from federation.wire.resource_name import UploadName, parse_upload
from federation.wire.upload import StreamProgress, Upload

# Clients half-close right behind finish_write. Waiting that long for it catches those that send
# more data instead, and costs the few that wait for the answer first next to nothing.
_TAIL_S = 0.05
_AT_ONCE_BYTES = 64 * 1024  # an upload of one message up to this size costs two thirds as much
_ALREADY_HELD_ZSTD = -1  # REAPI: committed_size of a compressed upload that was not needed


class WriteCalls:
    """Write over a store."""

    def __init__(
        self,
        store: LocalStore,
        uploads: Uploads,
        limits: LimitsConfig,
        clock: Clock,
        metrics: Metrics,
        *,
        alone: bool,
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._limits = limits
        self._clock = clock
        self._alone = alone
        self._traffic = metrics.traffic

    async def write(self, requests: RequestStream, call: Call) -> bytes:
        """Store a blob; one that is held already is answered without reading the rest."""
        messages = _Messages(requests, self._clock, self._limits.stall)
        first = await messages.next()
        if first is None:
            raise InvalidRequest("a Write without a message")
        name = parse_upload(first.resource_name)
        call.check_push(name.instance)
        # An open upload of this name is another stream's, which has to be ended first.
        if _is_whole(first, name) and not self._uploads.is_open(name):
            try:
                return await self._store_at_once(name, first, messages, call)
            except StorageFull:
                pass  # below, uploads that wait to be resumed are dropped to make room
        # Only a larger blob is looked up first: write_one looks a small one up as it stores it.
        elif await self._is_here(name.digest, call):
            # What an earlier stream left of it is not needed any more, and takes room.
            await self._uploads.drop_parked(name)
            return _early_answer(name)
        async with self._uploads.claim(name, requests) as upload:
            # The stream that it was taken over from may have completed it.
            if upload.taken_over and await self._is_here(name.digest, call):
                upload.resumable = False
                return _early_answer(name)
            # A stream at offset 0 begins anew, whatever is here of an older one.
            if upload.rules.begin_stream(first.resource_name, first.write_offset):
                await self._uploads.start_over(upload)
                upload.rules.begin_stream(first.resource_name, 0)
            receiver = await self._uploads.begin(upload, call.provenance, call.caller)
            traffic = self._traffic.of(name.instance)
            await self._receive(upload, receiver, first, messages, traffic)
            upload.resumable = False  # a commit ends the ingest, whether it succeeds or not
            await receiver.finish()
            call.accepted(name.instance, digest=name.digest)
            return encode_write_response(upload.rules.received_bytes)

    async def _store_at_once(
        self, name: UploadName, first: WriteRequest, messages: _Messages, call: Call
    ) -> bytes:
        """Store a small blob that came whole in the first message: nothing of it can be resumed.

        Raises InvalidRequest, and what LocalStore.write_one does.
        """
        rules = Upload(name.digest.size_bytes)
        rules.begin_stream(first.resource_name, first.write_offset)
        _take(rules, first)
        data, provenance = bytes(first.data), call.provenance  # a small one is no view: no copy
        if not await self._store.write_one(name.digest, data, provenance=provenance):
            return _early_answer(name)
        self._traffic.of(name.instance).in_bytes += len(first.data)
        # Only now: asking for the next message ends the count of this one as held in memory.
        if (extra := await messages.tail()) is not None:
            _take(rules, extra)
        call.accepted(name.instance, digest=name.digest)
        return encode_write_response(rules.received_bytes)

    async def query(self, request: bytes, call: Call) -> bytes:
        """Return how far an upload has come; an unknown one is at 0."""
        name = parse_upload(decode_query_request(request))
        # It tells whether a blob is held, as a read does.
        call.check_pull(name.instance)
        if not await self._store.find_missing([name.digest]):
            return encode_query_response(name.digest.size_bytes, complete=True)
        # committed_size must never decrease (google.bytestream). Where the next call may reach
        # another process, which does not have these bytes, only 0 and the whole size are safe.
        committed_size = self._uploads.resumable_bytes(name) if self._alone else 0
        return encode_query_response(committed_size, complete=False)

    async def _is_here(self, digest: Digest, call: Call) -> bool:
        """Whether the blob is held; one that only an upstream gave counts as the caller's, too."""
        return await self._store.accept_held(digest, provenance=call.provenance)

    async def _receive(
        self,
        upload: OpenUpload,
        receiver: UploadReceiver,
        first: WriteRequest,
        messages: _Messages,
        traffic: InstanceTraffic,
    ) -> None:
        """Take messages up to the one with finish_write."""
        message: WriteRequest | None = first
        while message is not None:
            self._check(upload, message)  # no await before put: both count the same bytes
            await receiver.put(message.data)
            traffic.in_bytes += len(message.data)
            if message.finish_write:
                if (extra := await messages.tail()) is not None:
                    self._check(upload, extra)
                return
            message = await messages.next()
        raise InvalidRequest("the stream ended without finish_write; the upload can be resumed")

    def _check(self, upload: OpenUpload, message: WriteRequest) -> None:
        try:
            _take(upload.rules, message)
        except InvalidRequest:
            upload.resumable = False
            raise


def _is_whole(first: WriteRequest, name: UploadName) -> bool:
    """Whether a stream's first message carries all of a small blob."""
    return (
        first.finish_write
        and not name.compressed
        and first.write_offset == 0
        and 0 < len(first.data) == name.digest.size_bytes <= _AT_ONCE_BYTES
    )


def _take(rules: Upload, message: WriteRequest) -> None:
    rules.receive(
        message.resource_name, message.write_offset, len(message.data), message.finish_write
    )


class _Messages:
    """The decoded messages of a stream that must not stall."""

    def __init__(self, requests: RequestStream, clock: Clock, stall_s: float) -> None:
        self._requests = requests
        self._clock = clock
        self._stall_s = stall_s
        self._progress = StreamProgress(stall_s, clock.monotonic_s())

    async def next(self) -> WriteRequest | None:
        """Return the next message, None after the half-close. Raises Stalled, InvalidRequest."""
        data = await self._requests.next(self._stall_s)
        if data is None:
            return None
        message = decode_write_request(data)
        moves = self._progress.saw(len(message.data), self._clock.monotonic_s())
        if not moves and not message.finish_write:
            raise Stalled(f"almost no data came for {self._stall_s:g} s")
        return message

    async def tail(self) -> WriteRequest | None:
        """Return a message sent right after the last one; None: there is none."""
        try:
            data = await self._requests.next(_TAIL_S)
        except Stalled:
            return None
        return None if data is None else decode_write_request(data)


def _early_answer(name: UploadName) -> bytes:
    return encode_write_response(_ALREADY_HELD_ZSTD if name.compressed else name.digest.size_bytes)


class ByteStreamService:
    """Read, Write and QueryWriteStatus. Listeners share one, and with it the open uploads."""

    name = "google.bytestream.ByteStream"

    def __init__(
        self,
        store: LocalStore,
        limits: LimitsConfig,
        clock: Clock,
        metrics: Metrics,
        budget: MemoryBudget,
        compute: Compute,
        *,
        alone: bool = True,
        quota_bytes: Callable[[], int] | None = None,
        hits: LimitHits | None = None,
    ) -> None:
        """Take what the calls work on.

        alone False: other processes take calls of these clients. quota_bytes, hits: see Uploads.
        """
        # Other protocols' uploads and reads keep within the same bounds.
        self.uploads = Uploads(store, limits, metrics, budget, compute, quota_bytes, hits)
        self.budgets = Budgets.within(budget)
        self._read = ReadCalls(store, clock, metrics, self.budgets, compute)
        self._write = WriteCalls(store, self.uploads, limits, clock, metrics, alone=alone)

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "Read": ServerStream(
                self._read.read,
                paced=True,
                request_max=SMALL_REQUEST,
                at_once=self._read.read_at_once,
            ),
            "Write": ClientStream(self._write.write, writes=True),
            "QueryWriteStatus": Unary(self._write.query, request_max=SMALL_REQUEST),
        }

    async def close(self) -> None:
        """Drop the uploads that wait to be resumed; call it when the servers have stopped."""
        await self.uploads.close()
