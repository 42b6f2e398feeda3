"""The HTTP listener: its addresses, its start and its end.

aiohttp, which parses requests, is imported when the first connection comes: it is a sixth of the
CPU of a start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING

from federation.config.types import Address, parse_address
from federation.core.tasks import Background
from federation.observability.rate_limits import LimitHits
from federation.server.addresses import listen, resolve
from federation.server.http.router import HttpAnswer, HttpRequest
from federation.server.passed_sockets import PassedSockets

if TYPE_CHECKING:
    from aiohttp import web

_PARSER = "federation.server.http.bounded_server"
_PAUSE_S = 0.5  # after a connection could not be accepted

Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]


class HttpServer:
    """Serves one handler: start and stop, each once and in this order."""

    def __init__(self, address: str, handler: Handler, hits: LimitHits | None = None) -> None:
        self.address = parse_address(address)  # after start, with the real port
        self._handler = handler
        self._hits = hits
        self._sockets: list[socket.socket] = []
        self._first = Background()
        self._loading = asyncio.Lock()
        self._runner: web.ServerRunner | None = None  # from the first connection on

    def __repr__(self) -> str:
        return f"<HttpServer {self.address}>"

    async def start(self, passed: PassedSockets | None = None) -> None:
        """Bind and answer. Raises CannotStart; stop() then leaves nothing behind.

        passed: the service manager's sockets; those on this port are taken instead.
        """
        self._sockets += passed.take(self.address) if passed is not None else []
        for host in [] if self._sockets else await resolve(self.address):
            self._sockets.append(listen(Address(host, self.address.port)))
            self.address = self.address._replace(port=self._sockets[-1].getsockname()[1])
        for each in self._sockets:
            each.setblocking(False)
            self._first.start(self._serve(each), f"HTTP on {self.address}")

    async def stop(self) -> None:
        """Close every connection; safe before and after start."""
        await self._first.close()
        if self._runner is not None:
            await self._runner.cleanup()
        for each in self._sockets:
            each.close()

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
            runner = await self._load()
            from aiohttp.web import SockSite  # noqa: PLC0415 - see above

            assert runner.server is not None
            await loop.connect_accepted_socket(runner.server, connection)
        except BaseException:
            connection.close()
            raise
        await SockSite(runner, listening).start()

    async def _load(self) -> web.ServerRunner:
        async with self._loading:
            if self._runner is None:
                # In a thread, as calls go on meanwhile.
                parser = await asyncio.to_thread(import_module, _PARSER)
                self._runner = parser.runner_of(self._handler, self._hits)
                await self._runner.setup()
            return self._runner
