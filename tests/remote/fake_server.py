"""A server of the protocol that misbehaves as it is told, on the wire of a real gRPC server.

    async with FakeServer() as fake:
        digest = fake.holds(b"content")
        fake.streams = flipped_bit
        fake.does["FindMissingBlobs"] = fails(grpc.StatusCode.UNAVAILABLE)

Without being told anything it is a good one: blobs in a dict, action results, assets and references
in others. What it was asked is in `asked`. RawServer and Proxy stand for what is below HTTP/2.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.buildstream.v2 import buildstream_pb2 as references
from federation._proto.google.bytestream import bytestream_pb2
from federation.core.digest import Digest, DigestFunction, digest_of, hash_bytes
from federation.wire import zstd
from federation.wire.resource_name import parse_read, parse_upload

Context = grpc.aio.ServicerContext[bytes, bytes]
UnaryDoes = Callable[[bytes, Context], Awaitable[bytes]]
StreamDoes = Callable[[bytes, Context], AsyncIterator[bytes]]  # of the data that is sent

REAPI = "build.bazel.remote.execution.v2"
ASSET = "build.bazel.remote.asset.v1"
SERVICES = {
    "GetCapabilities": f"{REAPI}.Capabilities",
    "FindMissingBlobs": f"{REAPI}.ContentAddressableStorage",
    "BatchReadBlobs": f"{REAPI}.ContentAddressableStorage",
    "BatchUpdateBlobs": f"{REAPI}.ContentAddressableStorage",
    "GetActionResult": f"{REAPI}.ActionCache",
    "UpdateActionResult": f"{REAPI}.ActionCache",
    "FetchBlob": f"{ASSET}.Fetch",
    "FetchDirectory": f"{ASSET}.Fetch",
    "PushBlob": f"{ASSET}.Push",
    "PushDirectory": f"{ASSET}.Push",
    "GetReference": "buildstream.v2.ReferenceStorage",
    "UpdateReference": "buildstream.v2.ReferenceStorage",
    "FindLacking": "federation.v1.Holdings",
    "Apply": "federation.v1.Purges",
    "QueryWriteStatus": "google.bytestream.ByteStream",
}
PINS = "federation.v1.Pins"  # its method is called like that of Purges
CHUNK_BYTES = 64 * 1024


class Asked(NamedTuple):
    """One call that came in."""

    method: str
    request: bytes  # of a Write, the first message
    metadata: dict[str, str | bytes]


class FakeServer:
    """Serves on port 0 of 127.0.0.1, or the port given, between __aenter__ and __aexit__."""

    def __init__(
        self,
        credentials: grpc.ServerCredentials | None = None,
        *,
        port: int = 0,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.results: dict[str, bytes] = {}
        self.assets: dict[str, reapi.Digest] = {}
        self.directories: dict[str, reapi.Digest] = {}
        self.references: dict[str, reapi.Digest] = {}
        self.pushed: list[Message] = []
        self.asked: list[Asked] = []
        self.capabilities = good_capabilities()
        self.announces: list[tuple[str, str]] = []  # headers with the answer to GetCapabilities
        self.does: dict[str, UnaryDoes] = {}  # by method name, instead of what a good server does
        self.streams: StreamDoes = as_it_is  # what is sent of a blob that is held
        self.packs: Callable[[bytes], bytes] = zstd.encode
        self.writes: Callable[[Upload, Context], Awaitable[None]] = take
        self.partial: dict[str, bytes] = {}  # by resource name, of uploads that broke
        self.address = ""
        self._credentials = credentials
        self._port = port
        self._options = options
        self._server: grpc.aio.Server | None = None

    def holds(self, data: bytes, function: DigestFunction = DigestFunction.SHA256) -> Digest:
        """Let it hold a blob."""
        digest = digest_of(data, function)
        self.blobs[digest] = data
        return digest

    def calls(self, method: str) -> list[Asked]:
        """Return the calls of this method so far."""
        return [each for each in self.asked if each.method == method]

    async def __aenter__(self) -> FakeServer:
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", 16 * 2**20), *self._options]
        )
        server.add_generic_rpc_handlers((_Handlers(self),))
        host = f"127.0.0.1:{self._port}"
        if self._credentials is None:
            port = server.add_insecure_port(host)
        else:
            port = server.add_secure_port(host, self._credentials)
        await server.start()
        self._server = server
        self._port = port
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End every call and connection, as a killed process does; the port is kept in mind."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace=0)

    async def start(self) -> None:
        """Serve again on the same port."""
        await self.__aenter__()

    # -- what a good server does -----------------------------------------------------------

    async def unary(self, method: str, request: bytes, context: Context) -> bytes:
        self.note(method, request, context)
        does = self.does.get(method)
        if does is not None:
            return await does(request, context)
        good: UnaryDoes = getattr(self, f"_{method}")
        return await good(request, context)

    def note(self, method: str, request: bytes, context: Context) -> None:
        metadata: Any = context.invocation_metadata()
        self.asked.append(Asked(method, request, dict(metadata)))

    async def _GetCapabilities(self, _request: bytes, context: Context) -> bytes:  # noqa: N802
        await context.send_initial_metadata(tuple(self.announces))
        return self.capabilities.SerializeToString()

    async def _FindMissingBlobs(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        message = reapi.FindMissingBlobsRequest.FromString(request)
        function = _function(message.digest_function)
        answer = reapi.FindMissingBlobsResponse()
        for each in message.blob_digests:
            if self.held(each, function) is None:
                answer.missing_blob_digests.add().CopyFrom(each)
        return answer.SerializeToString()

    async def _BatchReadBlobs(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        message = reapi.BatchReadBlobsRequest.FromString(request)
        function = _function(message.digest_function)
        answer = reapi.BatchReadBlobsResponse()
        for each in message.digests:
            item = answer.responses.add(digest=each)
            data = self.held(each, function)
            if data is None:
                item.status.code = grpc.StatusCode.NOT_FOUND.value[0]
            elif message.acceptable_compressors:
                item.data, item.compressor = self.packs(data), reapi.Compressor.ZSTD
            else:
                item.data = data
        return answer.SerializeToString()

    async def _BatchUpdateBlobs(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        message = reapi.BatchUpdateBlobsRequest.FromString(request)
        function = _function(message.digest_function)
        answer = reapi.BatchUpdateBlobsResponse()
        for each in message.requests:
            item = answer.responses.add(digest=each.digest)
            data = each.data
            if each.compressor == reapi.Compressor.ZSTD:
                data = zstd.decode(data, each.digest.size_bytes)
            if hash_bytes(function, data).hex() != each.digest.hash:
                item.status.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            else:
                self.holds(data, function)
        return answer.SerializeToString()

    async def _QueryWriteStatus(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        name = bytestream_pb2.QueryWriteStatusRequest.FromString(request).resource_name
        digest = parse_upload(name).digest
        if digest in self.blobs:
            answer = bytestream_pb2.QueryWriteStatusResponse(
                committed_size=digest.size_bytes, complete=True
            )
        else:
            answer = bytestream_pb2.QueryWriteStatusResponse(
                committed_size=len(self.partial.get(name, b""))
            )
        return answer.SerializeToString()

    async def _GetActionResult(self, request: bytes, context: Context) -> bytes:  # noqa: N802
        message = reapi.GetActionResultRequest.FromString(request)
        return await _found(self.results.get(message.action_digest.hash), context)

    async def _UpdateActionResult(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        message = reapi.UpdateActionResultRequest.FromString(request)
        value = message.action_result.SerializeToString()
        self.results[message.action_digest.hash] = value
        return value

    async def _FetchBlob(self, request: bytes, context: Context) -> bytes:  # noqa: N802
        message = asset.FetchBlobRequest.FromString(request)
        for uri in message.uris:
            if uri in self.assets:
                answer = asset.FetchBlobResponse(uri=uri, blob_digest=self.assets[uri])
                return answer.SerializeToString()
        return await _found(None, context)

    async def _FetchDirectory(self, request: bytes, context: Context) -> bytes:  # noqa: N802
        message = asset.FetchDirectoryRequest.FromString(request)
        for uri in message.uris:
            if uri in self.directories:
                found = self.directories[uri]
                answer = asset.FetchDirectoryResponse(uri=uri, root_directory_digest=found)
                return answer.SerializeToString()
        return await _found(None, context)

    async def _PushBlob(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        message = asset.PushBlobRequest.FromString(request)
        self.pushed.append(message)
        self.assets.update(dict.fromkeys(message.uris, message.blob_digest))
        return b""

    async def _PushDirectory(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        message = asset.PushDirectoryRequest.FromString(request)
        self.pushed.append(message)
        self.directories.update(dict.fromkeys(message.uris, message.root_directory_digest))
        return b""

    async def _GetReference(self, request: bytes, context: Context) -> bytes:  # noqa: N802
        message = references.GetReferenceRequest.FromString(request)
        found = self.references.get(message.key)
        if found is None:
            return await _found(None, context)
        return references.GetReferenceResponse(digest=found).SerializeToString()

    async def _UpdateReference(self, request: bytes, _context: Context) -> bytes:  # noqa: N802
        message = references.UpdateReferenceRequest.FromString(request)
        self.references.update(dict.fromkeys(message.keys, message.digest))
        return b""

    async def _FindLacking(self, _request: bytes, context: Context) -> bytes:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")

    _Apply = _FindLacking  # of federation.v1.Purges and Pins

    def held(self, message: reapi.Digest, function: DigestFunction) -> bytes | None:
        return self.blobs.get(Digest(bytes.fromhex(message.hash), message.size_bytes, function))

    async def read(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        self.note("Read", request, context)
        message = bytestream_pb2.ReadRequest.FromString(request)
        name = parse_read(message.resource_name)
        data = self.blobs.get(name.digest)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        if name.compressed:
            data = self.packs(data)
        end = message.read_offset + message.read_limit if message.read_limit else len(data)
        async for part in self.streams(data[message.read_offset : end], context):
            yield bytestream_pb2.ReadResponse(data=part).SerializeToString()

    async def write(self, _requests: object, context: Context) -> bytes:
        first = bytestream_pb2.WriteRequest.FromString(await context.read())
        self.note("Write", first.SerializeToString(), context)
        upload = Upload(self, first, context)
        await self.writes(upload, context)
        return bytestream_pb2.WriteResponse(
            committed_size=upload.committed_bytes
        ).SerializeToString()


class Upload:
    """One stream of a Write."""

    def __init__(
        self, server: FakeServer, first: bytestream_pb2.WriteRequest, context: Context
    ) -> None:
        self.server = server
        self.name = first.resource_name
        self.offset = first.write_offset
        self.committed_bytes = 0
        self.finished = False
        self._parsed = parse_upload(first.resource_name)
        self._first: bytestream_pb2.WriteRequest | None = first
        self._context = context
        kept = server.partial.get(self.name, b"")
        self.data = bytearray(kept[: first.write_offset])

    async def next(self) -> bool:
        """Take a message; False after the last."""
        message, self._first = self._first, None
        if message is None:
            raw: Any = await self._context.read()
            if raw is grpc.aio.EOF:  # type: ignore[attr-defined]
                return False
            message = bytestream_pb2.WriteRequest.FromString(raw)
        assert message.write_offset == len(self.data)
        self.data += message.data
        self.finished = message.finish_write
        self.server.partial[self.name] = bytes(self.data)
        return not self.finished

    def keep(self) -> None:
        """Hold the blob that was sent."""
        data = bytes(self.data)
        self.committed_bytes = len(data)
        if self._parsed.compressed:
            data = zstd.decode(data, self._parsed.digest.size_bytes)
        digest = self._parsed.digest
        assert hash_bytes(digest.function, data) == digest.hash
        self.server.blobs[digest] = data


async def take(upload: Upload, context: Context) -> None:
    """Do as a good server does."""
    while await upload.next():
        pass
    if not upload.finished:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "it ended without finish_write")
    upload.keep()


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it takes none at run time
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        service, _, name = details.method[1:].partition("/")
        if (service, name) == ("google.bytestream.ByteStream", "Read"):
            return grpc.unary_stream_rpc_method_handler(self._server.read)
        if (service, name) == ("google.bytestream.ByteStream", "Write"):
            return grpc.stream_unary_rpc_method_handler(self._server.write)
        if service != SERVICES.get(name) and (service, name) != (PINS, "Apply"):
            return None

        async def unary(request: bytes, context: Context) -> bytes:
            return await self._server.unary(name, request, context)

        return grpc.unary_unary_rpc_method_handler(unary)


def good_capabilities(*, zstd: bool = False, batch_bytes: int = 0) -> reapi.ServerCapabilities:
    """Return what a server says of itself."""
    packed = [reapi.Compressor.ZSTD] if zstd else []
    return reapi.ServerCapabilities(
        cache_capabilities=reapi.CacheCapabilities(
            digest_functions=["SHA256", "BLAKE3"],
            max_batch_total_size_bytes=batch_bytes,
            supported_compressors=packed,
            supported_batch_update_compressors=packed,
        )
    )


def _function(value: int) -> DigestFunction:
    return DigestFunction(value or DigestFunction.SHA256)


async def _found(value: bytes | None, context: Context) -> bytes:
    if value is None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
    return value


# -- what a unary call may do ------------------------------------------------------------------


def fails(
    code: grpc.StatusCode, message: str = "told to", retry_after_s: float | None = None
) -> UnaryDoes:
    """End with this status, and say in its details when to come again."""

    async def do(_request: bytes, context: Context) -> bytes:
        trailers: tuple[tuple[str, bytes], ...] = ()
        if retry_after_s is not None:
            info, details = RetryInfo(), AnyMessage()
            info.retry_delay.FromNanoseconds(round(retry_after_s * 1e9))
            details.Pack(info)
            status = Status(code=code.value[0], message=message, details=[details])
            trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(code, message, trailers)

    return do


def answers(response: bytes) -> UnaryDoes:
    """Answer with these bytes, whatever they are."""

    async def do(_request: bytes, _context: Context) -> bytes:
        return response

    return do


async def hangs(_request: bytes, _context: Context) -> bytes:
    """Never answer."""
    await asyncio.Event().wait()
    return b""


def first_times(count: int, does: UnaryDoes, then: UnaryDoes) -> UnaryDoes:
    """Do one thing this many times, then the other."""
    left = count

    async def do(request: bytes, context: Context) -> bytes:
        nonlocal left
        left -= 1
        return await (does if left >= 0 else then)(request, context)

    return do


# -- what a Read may send ------------------------------------------------------------------------


async def as_it_is(data: bytes, _context: Context) -> AsyncIterator[bytes]:
    for at in range(0, len(data), CHUNK_BYTES):
        yield data[at : at + CHUNK_BYTES]


def ends_after(size_bytes: int) -> StreamDoes:
    """End with OK after these bytes."""

    async def do(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        yield data[:size_bytes]

    return do


def fails_after(size_bytes: int, code: grpc.StatusCode) -> StreamDoes:
    """End with this status after these bytes."""

    async def do(data: bytes, context: Context) -> AsyncIterator[bytes]:
        if size_bytes:
            yield data[:size_bytes]
        await context.abort(code, "told to")

    return do


def hangs_after(size_bytes: int) -> StreamDoes:
    """Send headers and these bytes, then nothing."""

    async def do(data: bytes, context: Context) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(())
        if size_bytes:
            yield data[:size_bytes]
        await asyncio.Event().wait()

    return do


def goes_on_with(extra: bytes) -> StreamDoes:
    """Send more than there is."""

    async def do(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        yield data
        yield extra

    return do


async def endless(data: bytes, _context: Context) -> AsyncIterator[bytes]:
    while True:
        yield data or b"more"


async def flipped_bit(data: bytes, _context: Context) -> AsyncIterator[bytes]:
    yield bytes((data[0] ^ 1,)) + data[1:]


async def empty_messages(_data: bytes, _context: Context) -> AsyncIterator[bytes]:
    while True:
        yield b""
        await asyncio.sleep(0.001)


def trickles(every_s: float) -> StreamDoes:
    """Send one byte at a time."""

    async def do(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        for at in range(len(data)):
            yield data[at : at + 1]
            await asyncio.sleep(every_s)

    return do


# -- below HTTP/2 --------------------------------------------------------------------------------


class RawServer:
    """Takes connections and says only what it is given: silence, or bytes that are no HTTP/2."""

    def __init__(self, says: bytes = b"") -> None:
        self._says = says
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.address = ""

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        writer.write(self._says)
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass


class Proxy:
    """Forwards connections to a server, until told to cut, freeze or refuse them.

    The server is host:port or unix:path.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.cut_after_bytes: int | None = None  # from the server to the client
        self.freeze_after_bytes: int | None = None  # from the client to the server
        # Of new connections, 0 for no limit: a slow link with a deep queue, which loses nothing.
        self.to_server_bytes_s = 0
        self.to_client_bytes_s = 0
        self.refuses = False
        self.connections = 0
        self.cuts = 0
        self.address = ""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        self._flowing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection."""
        self.cuts += 1
        for end in self._ends:
            _reset(end)
        self._ends.clear()

    def freeze(self) -> None:
        """Keep connections and forward nothing, as a dead network does."""
        self._flowing.clear()

    @property
    def is_frozen(self) -> bool:
        return not self._flowing.is_set()

    def thaw(self) -> None:
        """Forward again."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            _reset(writer)
            return
        self._ends |= {writer, far_writer}
        for source, sink, bytes_s in (
            (reader, far_writer, self.to_server_bytes_s),
            (far_reader, writer, self.to_client_bytes_s),
        ):
            if bytes_s:
                self._start(_queued(source, sink, bytes_s))
            else:
                self._start(self._pump(source, sink, to_client=sink is writer))

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        scheme, _, path = self._target.partition(":")
        if scheme == "unix":
            return await asyncio.open_unix_connection(path)
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                if to_client and self.cut_after_bytes is not None:
                    data = data[: self.cut_after_bytes]
                    self.cut_after_bytes -= len(data)
                sink.write(data)
                await sink.drain()
                if to_client and self.cut_after_bytes == 0:
                    self.cut_after_bytes = None
                    self.cut()
                if not to_client and self.freeze_after_bytes is not None:
                    self.freeze_after_bytes -= len(data)
                    if self.freeze_after_bytes <= 0:
                        self.freeze_after_bytes = None
                        self.freeze()
        sink.close()


async def _queued(source: asyncio.StreamReader, sink: asyncio.StreamWriter, bytes_s: int) -> None:
    """Forward at this rate what is taken as fast as it comes."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def fill() -> None:
        while data := await source.read(4096):
            queue.put_nowait(data)

    filling = asyncio.ensure_future(fill())
    filling.add_done_callback(lambda _: queue.put_nowait(b""))
    try:
        with contextlib.suppress(ConnectionError, OSError):
            while data := await queue.get():
                sink.write(data)
                await sink.drain()
                await asyncio.sleep(len(data) / bytes_s)
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
    sink.close()


def _reset(end: asyncio.StreamWriter) -> None:
    """Send RST, as a machine that has forgotten the connection does."""
    found = end.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()


def refusing_address() -> str:
    """Return an address where nobody listens.

    Below the ports that the kernel hands out, where it can be: one of those may be anybody's a
    moment later, when a node that is to have it starts.
    """
    handed_out_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(max(10_000, handed_out_from - 20_000), handed_out_from) or range(1)
    while True:
        with socket.socket() as free, contextlib.suppress(OSError):  # taken: try another
            free.bind(("127.0.0.1", random.choice(ports)))
            return f"127.0.0.1:{free.getsockname()[1]}"
