"""The server of one listener: accepts connections within its limits, watches them, drains them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.access.handshake import AwaitsHandshake, secure
from federation.access.incoming_call import PeerAddress
from federation.access.tls_contexts import HTTP1, Contexts
from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.errors import FederationError
from federation.core.tasks import Background
from federation.http_cache.connection import IDLE_S, SENT, SENT_LAST, HttpConnection
from federation.http_cache.http_call import TEXT, HttpCall
from federation.http_cache.routes import Routes
from federation.http_cache.statuses import phrase
from federation.http_cache.target import ClientKind, Kind, Target, parse_target
from federation.observability.rate_limits import LimitHits
from federation.services.connection_log import ConnectionLog
from federation.services.open_connections import ConnectionRegistry, OpenConnections
from federation.services.status_codes import CallStatus, StatusCode, status_of
from federation.services.transport import CallEnded

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls

_log = structlog.get_logger(__name__)

_HANDSHAKE_S = 15.0
_SWEEP_S = 0.5
_BACKLOG = 1024
_LINE_BYTES = 8190  # of a request line
_FIELD_BYTES = 16 * 1024  # of one header field: a proxy's certificate, a JWT
_FIELDS = 100
_AHEAD_MIN, _AHEAD_MAX = 2**14, 2**17  # of a body before its handler reads
_NOWHERE = Target(Kind.STATUS, ClientKind.KEY_VALUE)


class HttpCacheServer(web.Server):
    """Serves these routes on one listener's sockets: start, stop, each once."""

    def __init__(
        self,
        routes: Routes,
        limits: LimitsConfig,
        clock: Clock,
        hits: LimitHits,
        connections: OpenConnections[HttpConnection],
        tls: LiveTls | None = None,
    ) -> None:
        """hits: that of the whole node. connections: what the routes' Runtime has, too."""
        # A client that leaves cancels its task, as the pipeline expects of every protocol.
        super().__init__(self._serve, handler_cancellation=True)
        self.clock = clock
        self._routes = routes
        self._limits = limits
        self.registry = ConnectionRegistry(connections, limits, hits)
        self._contexts = None if tls is None else Contexts(tls, HTTP1)
        self._log = ConnectionLog(clock)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = Background()
        self._sweep: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<HttpCacheServer {len(self.registry)} connections>"

    def __call__(self) -> HttpConnection:
        """Return the protocol of a new connection; see web.Server."""
        return HttpConnection(
            self,
            access_log=None,
            keepalive_timeout=IDLE_S,
            lingering_time=0,  # HttpCall reads what is left of a body
            max_line_size=_LINE_BYTES,
            max_field_size=_FIELD_BYTES,
            max_headers=_FIELDS,
            read_bufsize=_ahead_bytes(self._limits),
            # Values come back byte for byte, so none is unpacked.
            auto_decompress=False,
        )

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these sockets, which listen already; they are the server's from now on."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(
                await loop.create_server(self._accept, sock=each, backlog=_BACKLOG)
            )
        self._look()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; let running ones go on for grace_s at most, then end them."""
        for server in self._servers:
            server.close()
        await self._handshakes.close()
        for connection in self.registry:
            connection.drain()
        await self.registry.until_empty(grace_s)
        for connection in self.registry:
            connection.abort()
        await self.registry.until_empty(1.0)
        if self._tasks:  # they clean up
            await asyncio.wait(self._tasks)
        if self._sweep is not None:
            self._sweep.cancel()

    def _look(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._look)
        now_s = self.clock.monotonic_s()
        for connection in self.registry:
            if connection.look(now_s):
                connection.force_close()

    # For connections

    def _accept(self) -> asyncio.Protocol:
        return self() if self._contexts is None else AwaitsHandshake(self._begin_handshake)

    def _begin_handshake(self, transport: asyncio.Transport) -> None:
        """Start the handshake of a connection that has just come, if it is not one too many."""
        assert self._contexts is not None
        peer = self.registry.peer_of(transport)
        if self.registry.admit(peer):
            release = partial(self.registry.release, peer)
            refused = partial(self._handshake_failed, peer)
            work = secure(transport, self(), self._contexts, _HANDSHAKE_S, release, refused)
            self._handshakes.start(work, "TLS handshake")
        else:
            transport.abort()

    def _handshake_failed(self, peer: PeerAddress, error: OSError) -> None:
        if isinstance(error, ssl.SSLError):
            detail = getattr(error, "verify_message", "")
            self._log.tls_refused(peer, error.reason or str(error), detail)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection, or end it at once where too many are open. See web.Server."""
        super().connection_made(handler, transport)
        assert isinstance(handler, HttpConnection)
        if not self.registry.register(handler):
            transport.abort()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """See web.Server."""
        super().connection_lost(handler, exc)
        assert isinstance(handler, HttpConnection)
        self.registry.unregister(handler)

    def note_bad(
        self,
        connection: HttpConnection,
        status: int,
        error: BaseException | None,
        message: str | None,
    ) -> None:
        """What came is no request, or serving it met a bug."""
        if status >= 500:
            _log.error("call_failed", method="http.Cache", exc_info=error)
            return
        self._log.refused(connection.peer, message or str(error))

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, HttpConnection)
        connection.begun()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            # Made before its target is read: a path that is refused has to be answered, too.
            call = HttpCall(connection, request, _NOWHERE)
            await call.finish(await self._answer(call, request))
        except CallEnded:
            connection.force_close()
            return SENT_LAST
        return SENT_LAST if call.closes else SENT

    async def _answer(self, call: HttpCall, request: web.BaseRequest) -> bytes | CallStatus:
        try:
            call.target = parse_target(request.raw_path)
            route = self._routes.find(call)
        except FederationError as error:
            return status_of(error) or CallStatus(StatusCode.INVALID_ARGUMENT, str(error))
        # Before the pipeline: no method would take it, whoever asks.
        if (status := call.refused_at_once()) is not None:
            call.answers(status, TEXT)
            return f"{phrase(status)}\n".encode()
        if route is None:
            call.answers(405, (("Allow", "GET, HEAD, PUT, DELETE"),))
            return b""
        return await route.run(call)


def _ahead_bytes(limits: LimitsConfig) -> int:
    """Return how much of each body may come before it is read; aiohttp takes twice as much."""
    return max(_AHEAD_MIN, min(limits.buffer_memory // 4 // limits.streams, _AHEAD_MAX))
