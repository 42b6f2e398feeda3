"""The server transports, as tests run them: one for a whole run, or by name.

FEDERATION_TEST_TRANSPORT=http2 .venv/bin/pytest tests/services tests/e2e tests/attacks

runs all nodes and servers of these tests with that one; otherwise they run with the default.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from federation.services.method import Service
    from federation.services.runtime import Runtime
    from federation.services.transport import Connections

TRANSPORTS = ("grpcio", "http2")
TRANSPORT = os.environ.get("FEDERATION_TEST_TRANSPORT", "grpcio")

MakeRuntime = Callable[["Connections"], "Runtime"]


class Serving(NamedTuple):
    """A server in this process."""

    port: int
    stop: Callable[[float], Awaitable[object]]
    runtime: Runtime


async def serve_on_loopback(
    services: Sequence[Service], make_runtime: MakeRuntime, transport: str = TRANSPORT
) -> Serving:
    """Serve on a free port of 127.0.0.1."""
    if transport == "grpcio":
        import grpc

        from federation.services.grpc_calls import handlers
        from federation.services.tcp import ProcessConnections

        runtime = make_runtime(ProcessConnections())
        options = [("grpc.max_receive_message_length", runtime.limits.message)]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers(tuple(handlers(services, runtime)))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return Serving(port, server.stop, runtime)
    from federation.config.types import Address
    from federation.server.addresses import listen
    from federation.services.open_connections import OpenConnections
    from federation.transport.connection import Http2Connection
    from federation.transport.server import Http2Server, routes

    connections: OpenConnections[Http2Connection] = OpenConnections()
    runtime = make_runtime(connections)
    http2 = Http2Server(
        routes(services, runtime),
        runtime.limits,
        runtime.clock,
        runtime.hits,
        runtime.budget,
        connections,
    )
    listening = listen(Address("127.0.0.1", 0))
    await http2.start([listening])
    return Serving(listening.getsockname()[1], http2.stop, runtime)
