"""One HTTP/1.1 connection: aiohttp parses what comes; its times and its bounds are kept here."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from federation.access.incoming_call import Headers, PeerAddress, ShownCertificate, parse_peer
from federation.access.tls_contexts import shown_by
from federation.core.store import FilePart
from federation.http_cache.answer_head import head
from federation.http_cache.credentials import as_metadata
from federation.http_cache.sendfile import send_file
from federation.services.transport import CallEnded

if TYPE_CHECKING:
    from federation.http_cache.server import HttpCacheServer

HEAD_S = 20.0  # for the first request of a connection to begin, and for any to have its head whole
IDLE_S = 10 * 60.0  # between two requests
_BUFFERED_BYTES = 2**16  # of what is sent and the socket has not taken
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time: close sends RST
_PARSED_KEPT = 8  # headers, as most requests of a connection have the same


class HttpConnection(RequestHandler):
    """One connection, made when a client connects; implements HttpWire of wire.py."""

    __slots__ = (
        "_head_since_s",
        "_is_broken",
        "_parsed",
        "_server",
        "_shown",
        "is_ending",
        "peer",
        "received_bytes",
    )

    def __init__(self, server: HttpCacheServer, **settings: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self.peer: PeerAddress = parse_peer("")
        self.received_bytes = 0
        self.is_ending = False
        self._is_broken = False  # whatever still comes is dropped
        self._server = server
        self._shown: ShownCertificate | None = None
        self._parsed: dict[tuple[tuple[bytes, bytes], ...], Headers] = {}
        # Since when a request's head is waited for, that must come soon; None: none is.
        self._head_since_s: float | None = None

    # What happens to it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=_BUFFERED_BYTES)
        sock = transport.get_extra_info("socket")
        # Head and body may be separate writes, and the second would wait for an acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = self._server.registry.peer_of(transport)
        self._head_since_s = self._server.clock.monotonic_s()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See Protocol."""
        super().connection_lost(exc)
        self._parsed.clear()
        self.is_ending = True

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self.received_bytes += len(data)
        if self._is_broken:
            return
        # While a call runs, what comes is its body, which has limits of its own.
        if self._head_since_s is None and data and not self._is_busy:
            self._head_since_s = self._server.clock.monotonic_s()
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._break()

    def _break(self) -> None:
        """What came is no HTTP, which aiohttp does not tell whoever reads a body meanwhile."""
        self._is_broken = True
        if (request := self._current_request) is not None:
            request.content.set_exception(web.RequestPayloadError("not framed as HTTP demands"))

    @property
    def _is_busy(self) -> bool:
        return self._current_request is not None or bool(self._messages)

    def begun(self) -> None:
        """A request's head is whole."""
        self._head_since_s = None

    def look(self, now_s: float) -> bool:
        """Return whether a request's head has been waited for too long."""
        since_s = self._head_since_s
        return since_s is not None and now_s - since_s > HEAD_S

    def drain(self) -> None:
        """Take no further request; end at once if none is served."""
        self.is_ending = True  # not _close of aiohttp, which drops what comes of a body
        if not self._is_busy:
            self.force_close()

    # For calls

    def certificate(self) -> ShownCertificate:
        """See HttpWire."""
        if self._shown is None:
            tls = None
            if self.transport is not None:
                tls = self.transport.get_extra_info("ssl_object")
            self._shown = shown_by(tls) if isinstance(tls, ssl.SSLObject) else ShownCertificate()
        return self._shown

    def headers_of(self, request: web.BaseRequest) -> Headers:
        """See HttpWire."""
        raw = request.raw_headers
        found = self._parsed.get(raw)
        if found is None:
            found = as_metadata(raw)
            if len(self._parsed) >= _PARSED_KEPT:
                self._parsed.pop(next(iter(self._parsed)))
            self._parsed[raw] = found
        return found

    async def send(self, data: bytes) -> None:
        """See HttpWire."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise CallEnded
        transport.write(data)
        # Nearly never: what the socket takes at once needs no await.
        if self._paused:
            try:
                await self._drain_helper()
            except ConnectionError:
                raise CallEnded from None
            if self.transport is None:
                raise CallEnded

    @property
    def sends_files(self) -> bool:
        """See HttpWire."""
        return self.transport is not None and self.ssl_context is None

    async def send_file(self, part: FilePart) -> None:
        """See HttpWire."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise CallEnded
        transport.set_write_buffer_limits(high=0)  # what was written goes first
        try:
            await self.send(b"")
            await send_file(transport.get_extra_info("socket"), part)
        except OSError:
            raise CallEnded from None
        finally:
            transport.set_write_buffer_limits(high=_BUFFERED_BYTES)

    def abort(self) -> None:
        """See HttpWire."""
        transport = self.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            # By a reset the client sees an error at once, whatever of the answer is still queued.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        transport.abort()

    def close(self) -> None:
        """See HttpWire."""
        self.force_close()

    def wall_s(self) -> float:
        """See HttpWire."""
        return self._server.clock.wall_s()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See RequestHandler: what came is no request, or serving it met a bug."""
        self._server.note_bad(self, status, exc, message)
        self.is_ending = True
        if self.transport is not None:
            text = b"not a request that HTTP/1.1 allows\n" if status < 500 else b"internal error\n"
            number = status if status < 500 else 404  # clients fail builds on 5xx
            fields = (("Content-Type", "text/plain"),)
            begun = head(number, len(text), fields, closes=True, wall_s=self.wall_s())
            self.transport.write(begun + text)
        del request
        return SENT_LAST


class _Sent(web.StreamResponse):
    """The answer is sent already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002
        """See StreamResponse."""
        return

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        """See StreamResponse."""
        return


SENT, SENT_LAST = _Sent(keep_alive=True), _Sent(keep_alive=False)
