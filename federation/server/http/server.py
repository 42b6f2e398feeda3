"""The HTTP server of one place: its start and its end.

aiohttp, which parses requests, is imported when the first connection comes: it is a sixth of the
CPU of a start.
"""

from __future__ import annotations

import asyncio
import socket
from importlib import import_module
from typing import TYPE_CHECKING

from federation.core.tasks import Background
from federation.observability.rate_limits import LimitHits
from federation.server.http.places import HttpPlace, TcpPlace
from federation.server.http.router import Handler
from federation.server.passed_sockets import PassedSockets

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls
    from federation.server.http.bounded_server import BoundedServer

_PARSER = "federation.server.http.bounded_server"
_PAUSE_S = 0.5  # after a connection could not be accepted


class HttpServer:
    """Serves one handler: start and stop, each once and in this order."""

    def __init__(
        self,
        place: HttpPlace | str,
        handler: Handler,
        hits: LimitHits | None = None,
        tls: LiveTls | None = None,
    ) -> None:
        """place: a text is host:port. tls: None: plain text."""
        self.place = TcpPlace(place) if isinstance(place, str) else place
        self._handler = handler
        self._hits = hits
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._first = Background()
        self._loading = asyncio.Lock()
        self._server: BoundedServer | None = None  # from the first connection on
        self._accepting: list[asyncio.Server] = []

    def __repr__(self) -> str:
        return f"<HttpServer {self.place}>"

    async def start(self, passed: PassedSockets | None = None) -> None:
        """Bind and answer. Raises CannotStart; stop() then leaves nothing behind.

        passed: the service manager's sockets; those on this port are taken instead.
        """
        self._sockets = await self.place.open(passed)
        for each in self._sockets:
            each.setblocking(False)
            self._first.start(self._serve(each), f"HTTP on {self.place}")

    async def stop(self) -> None:
        """Close every connection; safe before and after start."""
        await self._first.close()
        for accepting in self._accepting:
            accepting.close()
        if self._server is not None:
            await self._server.stop()
        for each in self._sockets:
            each.close()
        # Only if this server made it: the path may be another process's socket.
        if self._sockets:
            self.place.close()

    async def _serve(self, listening: socket.socket) -> None:
        """Wait for the first connection, and leave it and all others to aiohttp."""
        while True:
            try:
                await self._take_over(listening)
            except OSError:  # no descriptors or memory left, or a connection that is gone again
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _take_over(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listening)
        try:
            server = await self._load()
            await loop.connect_accepted_socket(server.accept, connection)
        except BaseException:
            connection.close()
            raise
        # Behind the first connection, so that the parser is imported only if there is one.
        self._accepting.append(await loop.create_server(server.accept, sock=listening))

    async def _load(self) -> BoundedServer:
        async with self._loading:
            if self._server is None:
                # In a thread, as calls go on meanwhile.
                parser = await asyncio.to_thread(import_module, _PARSER)
                self._server = parser.BoundedServer(self._handler, self._hits, self._tls)
            return self._server
