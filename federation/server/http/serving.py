"""The HTTP servers of a configuration: the guarded address, and the Unix socket."""

from __future__ import annotations

from federation.access.access import ListenerAccess
from federation.config.http import HttpConfig
from federation.core.clock import Clock
from federation.observability.rate_limits import LimitHits
from federation.server.http.guard import PageGuard
from federation.server.http.places import SHARED_MODE, TcpPlace, UnixPlace
from federation.server.http.router import Handler
from federation.server.http.server import HttpServer


def http_servers(
    settings: HttpConfig,
    pages: Handler,
    access: ListenerAccess | None,
    hits: LimitHits | None,
    clock: Clock,
) -> tuple[HttpServer | None, list[HttpServer]]:
    """Return the server of the address, and those of Unix sockets, whose callers need no role."""
    http = None
    if settings.address is not None:
        guard = PageGuard(pages, settings, None if access is None else access.rights, clock)
        tls = None if access is None else access.tls
        http = HttpServer(TcpPlace(settings.address), guard.answer, hits, tls)
    if settings.socket is None:
        return http, []
    return http, [HttpServer(UnixPlace(settings.socket, SHARED_MODE), pages, hits)]
