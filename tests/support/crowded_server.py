"""A server of blobs over HTTP/2 that takes only so many calls at once, as proxies do.

Beyond them it answers REFUSED_STREAM, or only announces that it takes no more, as it is told. It
serves ByteStream.Read of plain blobs, each after a while, and knows no other method.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from federation._proto.google.bytestream import bytestream_pb2
from federation.core.digest import Digest, digest_of
from federation.wire.resource_name import parse_read

_READ = "/google.bytestream.ByteStream/Read"
_UNIMPLEMENTED, _NOT_FOUND = "12", "5"


class CrowdedServer:
    """Listens on port 0 of 127.0.0.1 between __aenter__ and __aexit__."""

    def __init__(self, at_once: int, takes_s: float, *, announces: bool = False) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.address = ""
        self.refused = 0
        self.served = 0
        self.most_at_once = 0
        self._at_once = at_once
        self._takes_s = takes_s
        self._announces = announces
        self._connections: set[asyncio.Task[None]] = set()

    def holds(self, data: bytes) -> Digest:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    async def __aenter__(self) -> CrowdedServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(self, reader, writer).run()
        except (ConnectionError, h2.exceptions.ProtocolError, asyncio.CancelledError):
            pass  # the test has ended, or the client has gone
        finally:
            self._connections.discard(task)
            writer.transport.abort()


class _Connection:
    def __init__(
        self,
        server: CrowdedServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._paths: dict[int, str] = {}
        self._bodies: dict[int, bytearray] = {}
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._window = asyncio.Event()

    async def run(self) -> None:
        self._h2.initiate_connection()
        if self._server._announces:
            most = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
            self._h2.update_settings({most: self._server._at_once})
        try:
            self._flush()
            while data := await self._reader.read(65536):
                for event in self._h2.receive_data(data):
                    self._take(event)
                self._flush()
        finally:
            for task in self._answers.values():
                task.cancel()
            await asyncio.gather(*self._answers.values(), return_exceptions=True)

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers: dict[object, object] = dict(event.headers)
            self._begin(event.stream_id, str(headers[":path"]))
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.stream_id in self._bodies:
                self._bodies[event.stream_id] += event.data
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id in self._bodies:
            answer = self._answer(event.stream_id, bytes(self._bodies.pop(event.stream_id)))
            self._answers[event.stream_id] = asyncio.ensure_future(answer)
        elif isinstance(event, h2.events.StreamReset):
            self._bodies.pop(event.stream_id, None)
            if (task := self._answers.pop(event.stream_id, None)) is not None:
                task.cancel()
        elif isinstance(event, h2.events.WindowUpdated):
            self._window.set()

    def _begin(self, stream: int, path: str) -> None:
        running = len(self._bodies) + len(self._answers)
        if path == _READ and running >= self._server._at_once:
            self._server.refused += 1
            self._h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self._server.most_at_once = max(self._server.most_at_once, running + 1)
        self._paths[stream] = path
        self._bodies[stream] = bytearray()

    async def _answer(self, stream: int, body: bytes) -> None:
        try:
            if self._paths.pop(stream) != _READ:
                self._end(stream, _UNIMPLEMENTED)
                return
            await asyncio.sleep(self._server._takes_s)
            name = bytestream_pb2.ReadRequest.FromString(body[5:]).resource_name
            data = self._server.blobs.get(parse_read(name).digest)
            if data is None:
                self._end(stream, _NOT_FOUND)
                return
            self._h2.send_headers(stream, _HEADERS)
            message = bytestream_pb2.ReadResponse(data=data).SerializeToString()
            await self._send(stream, b"\0" + struct.pack(">I", len(message)) + message)
            self._h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
            self._server.served += 1
        except (h2.exceptions.ProtocolError, ConnectionError):
            pass  # the client has left this call
        finally:
            self._answers.pop(stream, None)
            with contextlib.suppress(ConnectionError):
                self._flush()

    def _end(self, stream: int, status: str) -> None:
        self._h2.send_headers(stream, [*_HEADERS, ("grpc-status", status)], end_stream=True)

    async def _send(self, stream: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._window.clear()
                await self._window.wait()
                continue
            self._h2.send_data(stream, data[at : at + room])
            at += room
            self._flush()


_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
