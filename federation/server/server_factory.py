"""Makes the server of each listener, by its protocol and the configured transport of gRPC.

Only what is chosen is imported: `ngh2` may not be installed, and grpcio's server and aiohttp take
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from federation.config.model import ListenerConfig
from federation.core.errors import ConfigError
from federation.server.node import ListeningServer
from federation.services.method import Service
from federation.services.open_connections import OpenConnections
from federation.services.runtime import Runtime
from federation.services.transport import Connections

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls
    from federation.http_cache.connection import HttpConnection
    from federation.transport.connection import Http2Connection


class ListenerPlace(NamedTuple):
    """Where and how a server listens."""

    config: ListenerConfig
    port: int  # in place of the configured one
    alone: bool  # False: other processes of this node answer on the same port
    tls: LiveTls | None


class ServerFactory(Protocol):
    """Makes the server of one listener."""

    @property
    def connections(self) -> Connections:
        """The connections of that server. The Runtime given to make() must have this object."""
        ...

    def make(
        self, place: ListenerPlace, services: Sequence[Service], runtime: Runtime
    ) -> ListeningServer:
        """Return the server; it is not bound to its port yet."""
        ...


def server_factory(
    transport: Literal["grpcio", "http2"], protocol: Literal["grpc", "http"] = "grpc"
) -> ServerFactory:
    """Return a new factory for the server of one listener. transport: what carries gRPC."""
    if protocol == "http":
        return _HttpCacheFactory(OpenConnections())
    if transport == "grpcio":
        from federation.services.tcp import ProcessConnections  # noqa: PLC0415 - see above

        return _GrpcioFactory(ProcessConnections())
    return _Http2Factory(OpenConnections())


def check_installed(transport: Literal["grpcio", "http2"]) -> None:
    """Raise ConfigError if a package that this transport needs is not installed."""
    # Looked for, not imported: a check of a configuration needs no server.
    if transport == "http2" and find_spec("ngh2") is None:
        raise ConfigError(
            "transport: http2 needs the package ngh2, which is not installed: "
            "pip install 'federation-cache[http2]'"
        )


class _GrpcioFactory:
    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    def make(
        self, place: ListenerPlace, services: Sequence[Service], runtime: Runtime
    ) -> ListeningServer:
        from federation.server.listener import GrpcServer  # noqa: PLC0415 - see above
        from federation.services.grpc_calls import handlers  # noqa: PLC0415

        config, port, alone, tls = place
        served = handlers(services, runtime)
        return GrpcServer(config, runtime.limits, served, port=port, alone=alone, tls=tls)


class _Http2Factory:
    def __init__(self, connections: OpenConnections[Http2Connection]) -> None:
        self.connections = connections

    def make(
        self, place: ListenerPlace, services: Sequence[Service], runtime: Runtime
    ) -> ListeningServer:
        from federation.server.socket_listener import SocketListener  # noqa: PLC0415 - see above
        from federation.transport.server import Http2Server, routes  # noqa: PLC0415

        server = Http2Server(
            routes(services, runtime),
            runtime.limits,
            runtime.clock,
            runtime.hits,
            runtime.budget,
            self.connections,
            place.tls,
        )
        return SocketListener(place.config, server, port=place.port, alone=place.alone)


class _HttpCacheFactory:
    def __init__(self, connections: OpenConnections[HttpConnection]) -> None:
        self.connections = connections

    def make(
        self, place: ListenerPlace, services: Sequence[Service], runtime: Runtime
    ) -> ListeningServer:
        from federation.http_cache.routes import Routes  # noqa: PLC0415 - see above
        from federation.http_cache.server import HttpCacheServer  # noqa: PLC0415
        from federation.server.socket_listener import SocketListener  # noqa: PLC0415

        server = HttpCacheServer(
            Routes(services, runtime),
            runtime.limits,
            runtime.clock,
            runtime.hits,
            self.connections,
            place.tls,
        )
        return SocketListener(place.config, server, port=place.port, alone=place.alone)
