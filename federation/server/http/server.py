"""The HTTP listener: how it is bound, and what its clients may use up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.config.types import Address, parse_address
from federation.core.fair_share import FairShare, ShareVerdict
from federation.observability.limit_hits import LimitHits
from federation.server.addresses import listen, resolve
from federation.server.passed_sockets import PassedSockets

_CONNECTIONS_MAX = 100  # of all other machines
_LOCAL_MAX = 50  # of this one
_LOOPBACK = ("127.0.0.1", "::1")
_IDLE_S = 20.0  # also for headers that never end
_REQUEST_S = 5.0
_END_S = 2.0

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves one handler: start and stop, each once and in this order."""

    def __init__(self, address: str, handler: Handler, hits: LimitHits | None = None) -> None:
        self.address = parse_address(address)  # after start, with the real port
        self._handler = handler
        self._hits = hits
        self._runner: web.ServerRunner | None = None
        self._server: _BoundedServer | None = None

    def __repr__(self) -> str:
        return f"<HttpServer {self.address}>"

    async def start(self, passed: PassedSockets | None = None) -> None:
        """Bind and answer. Raises CannotStart; stop() then leaves nothing behind.

        passed: the service manager's sockets; those on this port are taken instead.
        """
        server = self._server = _BoundedServer(
            self._answer,
            access_log=None,
            keepalive_timeout=_IDLE_S,
            lingering_time=_END_S,
            hits=self._hits,
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
        if self._server is not None:
            self._server.asked(request.protocol)
        async with asyncio.timeout(_REQUEST_S):
            return await self._handler(request)


class _BoundedServer(web.Server):
    """Bounds connections, each address's and all, and how long each may go without a request.

    aiohttp itself takes as many as come, and waits for a first request for ever. Programs of this
    machine have connections of their own, so that they can always ask whether the node is ready.
    """

    def __init__(self, *args: Any, hits: LimitHits | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hits = hits
        self._share = FairShare(lambda: _CONNECTIONS_MAX)
        self._local = FairShare(lambda: _LOCAL_MAX, lambda: _LOCAL_MAX)
        self._held: dict[RequestHandler, _Held] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        host = str((transport.get_extra_info("peername") or ("",))[0]).removeprefix("::ffff:")
        share = self._local if host in _LOOPBACK else self._share
        if share.try_take(host) is not ShareVerdict.GRANTED:
            if self._hits is not None:
                self._hits.hit("http.connections", f"address {host}")
            transport.abort()
            return
        held = self._held[handler] = _Held(share, host, asyncio.get_running_loop().time())
        held.timer = asyncio.get_running_loop().call_later(_IDLE_S, self._look, handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        held = self._held.pop(handler, None)
        if held is not None:
            held.share.give_back(held.host)
            if held.timer is not None:
                held.timer.cancel()

    def asked(self, handler: RequestHandler) -> None:
        """A whole request came on this connection."""
        if (held := self._held.get(handler)) is not None:
            held.since_s = asyncio.get_running_loop().time()

    def _look(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """End a connection on which nothing was asked for too long, or no answer taken."""
        held = self._held[handler]
        loop = asyncio.get_running_loop()
        left_s = held.since_s + _IDLE_S + _REQUEST_S - loop.time()
        if left_s > 0:
            held.timer = loop.call_later(left_s, self._look, handler, transport)
            return
        transport.abort()


@dataclass(slots=True)
class _Held:
    share: FairShare
    host: str
    since_s: float
    timer: asyncio.TimerHandle | None = None
