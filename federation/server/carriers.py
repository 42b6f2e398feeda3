"""The transports that a node may serve by, each as what makes the server of a listener."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from federation.config.model import ListenerConfig
from federation.core.errors import ConfigError
from federation.server.node import ListeningServer
from federation.services.method import Service
from federation.services.runtime import Runtime
from federation.services.transport import Connections

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls
    from federation.transport.server import OpenConnections


class Carrier(Protocol):
    """The transport of one listener."""

    @property
    def connections(self) -> Connections:
        """Those of its server, which the Runtime has to have."""
        ...

    def serve(
        self,
        listener: ListenerConfig,
        services: Sequence[Service],
        runtime: Runtime,
        *,
        port: int,
        alone: bool,
        tls: LiveTls | None,
    ) -> ListeningServer:
        """Return its server; port, alone, tls: see GrpcServer."""
        ...


def carrier_of(transport: Literal["grpcio", "http2"]) -> Carrier:
    """Return the configured one; what the other one needs is not imported."""
    if transport == "grpcio":
        from federation.services.tcp import ProcessConnections  # noqa: PLC0415 - see above

        return _Grpcio(ProcessConnections())
    from federation.transport.server import OpenConnections  # noqa: PLC0415 - see above

    return _Http2(OpenConnections())


def check_installed(transport: Literal["grpcio", "http2"]) -> None:
    """Raise ConfigError if what the configured transport needs is not there."""
    if transport == "http2" and find_spec("ngh2") is None:
        raise ConfigError(
            "transport: http2 needs the package ngh2, which is not installed: "
            "pip install 'federation[http2]'"
        )


class _Grpcio:
    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    def serve(
        self,
        listener: ListenerConfig,
        services: Sequence[Service],
        runtime: Runtime,
        *,
        port: int,
        alone: bool,
        tls: LiveTls | None,
    ) -> ListeningServer:
        from federation.server.listener import GrpcServer  # noqa: PLC0415 - see carrier_of
        from federation.services.grpc_calls import handlers  # noqa: PLC0415

        served = handlers(services, runtime)
        return GrpcServer(listener, runtime.limits, served, port=port, alone=alone, tls=tls)


class _Http2:
    def __init__(self, connections: OpenConnections) -> None:
        self.connections = connections

    def serve(
        self,
        listener: ListenerConfig,
        services: Sequence[Service],
        runtime: Runtime,
        *,
        port: int,
        alone: bool,
        tls: LiveTls | None,
    ) -> ListeningServer:
        from federation.server.http2_listener import Http2Listener  # noqa: PLC0415 - see carrier_of
        from federation.transport.server import Http2Server, routes  # noqa: PLC0415

        server = Http2Server(
            routes(services, runtime),
            runtime.limits,
            runtime.clock,
            runtime.hits,
            runtime.budget,
            self.connections,
            tls,
        )
        return Http2Listener(listener, server, port=port, alone=alone)
