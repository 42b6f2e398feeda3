"""HTTP connections: how they are parsed, which is aiohttp's, and what they may use up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.access.incoming_call import plain_host
from federation.core.fair_share import FairShare, ShareVerdict
from federation.observability.rate_limits import LimitHits
from federation.server.http.router import HttpAnswer, HttpRequest

_CONNECTIONS_MAX = 100  # of all other machines
_LOCAL_MAX = 50  # of this one
_LOOPBACK = ("127.0.0.1", "::1")
_IDLE_S = 20.0  # also for headers that never end
_REQUEST_S = 5.0
_END_S = 2.0

Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]


def runner_of(handler: Handler, hits: LimitHits | None) -> web.ServerRunner:
    """Return a server of this handler, to be set up; hits: records refused connections."""
    return web.ServerRunner(BoundedServer(handler, hits), shutdown_timeout=_END_S)


class BoundedServer(web.Server):
    """Bounds connections, each address's and all, and how long each may go without a request.

    aiohttp itself takes as many as come, and waits for a first request for ever. Programs of this
    machine have connections of their own, so that they can always ask whether the node is ready.
    """

    def __init__(self, handler: Handler, hits: LimitHits | None) -> None:
        super().__init__(
            self._answer, access_log=None, keepalive_timeout=_IDLE_S, lingering_time=_END_S
        )
        self._handler = handler
        self._hits = hits
        self._share = FairShare(lambda: _CONNECTIONS_MAX)
        self._local = FairShare(lambda: _LOCAL_MAX, lambda: _LOCAL_MAX)
        self._held: dict[RequestHandler, _Held] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Hold a connection, or end it at once where too many are open. See web.Server."""
        super().connection_made(handler, transport)
        host = plain_host(str((transport.get_extra_info("peername") or ("",))[0]))
        share = self._local if host in _LOOPBACK else self._share
        if share.try_acquire(host) is not ShareVerdict.GRANTED:
            if self._hits is not None:
                self._hits.hit("http.connections", f"address {host}")
            transport.abort()
            return
        held = self._held[handler] = _Held(share, host, asyncio.get_running_loop().time())
        held.timer = asyncio.get_running_loop().call_later(_IDLE_S, self._look, handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """See web.Server."""
        super().connection_lost(handler, exc)
        held = self._held.pop(handler, None)
        if held is not None:
            held.share.release(held.host)
            if held.timer is not None:
                held.timer.cancel()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if (held := self._held.get(request.protocol)) is not None:
            held.since_s = asyncio.get_running_loop().time()
        asked = HttpRequest(request.method, request.path, request.headers.get("Accept", ""))
        async with asyncio.timeout(_REQUEST_S):
            status, content_type, body = await self._handler(asked)
        return web.Response(status=status, body=body, headers={"Content-Type": content_type})

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
