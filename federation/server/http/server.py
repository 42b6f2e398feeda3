"""The HTTP listener: how it is bound, and what its clients may use up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.config.types import Address, parse_address
from federation.server.addresses import listen, resolve
from federation.server.passed_sockets import PassedSockets

_CONNECTIONS_MAX = 100
_IDLE_S = 20.0  # also for headers that never end
_REQUEST_S = 5.0
_END_S = 2.0

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves one handler: start and stop, each once and in this order."""

    def __init__(self, address: str, handler: Handler) -> None:
        self.address = parse_address(address)  # after start, with the real port
        self._handler = handler
        self._runner: web.ServerRunner | None = None

    def __repr__(self) -> str:
        return f"<HttpServer {self.address}>"

    async def start(self, passed: PassedSockets | None = None) -> None:
        """Bind and answer. Raises CannotStart; stop() then leaves nothing behind.

        passed: the service manager's sockets; those on this port are taken instead.
        """
        server = _BoundedServer(
            self._answer, access_log=None, keepalive_timeout=_IDLE_S, lingering_time=_END_S
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_END_S)
        await self._runner.setup()
        sockets = passed.take(self.address) if passed is not None else []
        for listening in sockets:
            await web.SockSite(self._runner, listening).start()
        for host in [] if sockets else await resolve(self.address):
            listening = listen(Address(host, self.address.port))
            self.address = self.address._replace(port=listening.getsockname()[1])
            await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """Close every connection; safe before and after start."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        async with asyncio.timeout(_REQUEST_S):
            return await self._handler(request)


class _BoundedServer(web.Server):
    """Refuses connections above a number; aiohttp itself takes as many as come."""

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > _CONNECTIONS_MAX:
            transport.abort()
