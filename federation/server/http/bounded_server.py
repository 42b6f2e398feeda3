"""HTTP connections: how they are parsed, which is aiohttp's, and what they may use up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.access.handshake import AwaitsHandshake, secure
from federation.access.incoming_call import (
    Headers,
    PeerAddress,
    ShownCertificate,
    parse_peer,
    plain_host,
)
from federation.access.tls_contexts import HTTP1, Contexts, shown_by
from federation.core.fair_share import FairShare, ShareVerdict
from federation.core.tasks import Background
from federation.http_cache.credentials import as_metadata
from federation.observability.rate_limits import LimitHits
from federation.server.http.router import Handler, HttpRequest

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls

_CONNECTIONS_MAX = 100  # of all other machines
_LOCAL_MAX = 50  # of this one
_LOOPBACK = ("127.0.0.1", "::1", "")  # "": by a Unix socket
_IDLE_S = 20.0  # also for headers that never end
_HANDSHAKE_S = 10.0
_REQUEST_S = 5.0
_END_S = 2.0


class BoundedServer(web.Server):
    """Bounds connections, each address's and all, and how long each may go without a request.

    aiohttp itself takes as many as come, and waits for a first request for ever. Programs of this
    machine have connections of their own, so that they can always ask whether the node is ready.
    """

    def __init__(
        self, handler: Handler, hits: LimitHits | None, tls: LiveTls | None = None
    ) -> None:
        """hits: records refused connections. tls: None: plain text."""
        super().__init__(
            self._answer, access_log=None, keepalive_timeout=_IDLE_S, lingering_time=_END_S
        )
        self._handler = handler
        self._hits = hits
        self._contexts = None if tls is None else Contexts(tls, HTTP1)
        self._handshakes = Background()
        self._share = FairShare(lambda: _CONNECTIONS_MAX)
        self._local = FairShare(lambda: _LOCAL_MAX, lambda: _LOCAL_MAX)
        self._held: dict[RequestHandler, _Held] = {}

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a connection that has just come."""
        return self() if self._contexts is None else AwaitsHandshake(self._begin_handshake)

    async def stop(self) -> None:
        """End every connection."""
        await self._handshakes.close()
        await self.shutdown(_END_S)

    def _begin_handshake(self, transport: asyncio.Transport) -> None:
        """Start the TLS handshake of a connection that has just come, if it is not too many."""
        assert self._contexts is not None
        host = _host_of(transport)
        share = self._share_of(host)
        if share.try_acquire(host) is ShareVerdict.GRANTED:
            # Released behind the handshake: connection_made counts the connection that comes of it.
            release = partial(share.release, host)
            work = secure(transport, self(), self._contexts, _HANDSHAKE_S, release)
            self._handshakes.start(work, "TLS handshake")
        else:
            self._refuse(transport, host)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Hold a connection, or end it at once where too many are open. See web.Server."""
        super().connection_made(handler, transport)
        host = _host_of(transport)
        share = self._share_of(host)
        if share.try_acquire(host) is not ShareVerdict.GRANTED:
            self._refuse(transport, host)
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

    def _share_of(self, host: str) -> FairShare:
        return self._local if host in _LOOPBACK else self._share

    def _refuse(self, transport: asyncio.Transport, host: str) -> None:
        if self._hits is not None:
            self._hits.hit("http.connections", f"address {host}")
        transport.abort()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if (held := self._held.get(request.protocol)) is not None:
            held.since_s = asyncio.get_running_loop().time()
        headers = request.headers
        asked = HttpRequest(
            request.method,
            request.path,
            headers.get("Accept", ""),
            headers.get("Host", ""),
            request.query_string,
            _Shown(request),
        )
        async with asyncio.timeout(_REQUEST_S):
            answer = await self._handler(asked)
        fields = {"Content-Type": answer.content_type, **(answer.headers or {})}
        return web.Response(status=answer.status, body=answer.body, headers=fields)

    def _look(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """End a connection on which nothing was asked for too long, or no answer taken."""
        held = self._held[handler]
        loop = asyncio.get_running_loop()
        # aiohttp itself ends an idle connection behind an answer. This catches one that never asks,
        # and one that takes no answer.
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


class _Shown:
    """What a caller shows of itself; implements IncomingCall."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request

    @property
    def peer(self) -> PeerAddress:
        """See IncomingCall."""
        name = _peer_name(self._request.transport)
        if name is None:
            return parse_peer("unix:")
        host, port = name
        return parse_peer(f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}")

    @property
    def headers(self) -> Headers:
        """See IncomingCall."""
        return as_metadata(self._request.raw_headers)

    def certificate(self) -> ShownCertificate:
        """See IncomingCall."""
        transport = self._request.transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        return ShownCertificate() if tls is None else shown_by(tls)


def _peer_name(transport: asyncio.BaseTransport | None) -> tuple[str, int] | None:
    """Return host and port of the other end; None: it is no TCP connection, or is gone."""
    name = None if transport is None else transport.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def _host_of(transport: asyncio.BaseTransport) -> str:
    name = _peer_name(transport)
    return "" if name is None else plain_host(name[0])
