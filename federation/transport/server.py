"""The server of one listener: accepts connections within its limits, watches them, drains them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from federation.access.tls_contexts import HTTP2, Contexts
from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.memory_budget import MemoryBudget
from federation.observability.rate_limits import LimitHits
from federation.services.connection_log import ConnectionLog
from federation.services.method import ClientStream, Method, ServerStream, Service, Unary
from federation.services.open_connections import ConnectionRegistry, OpenConnections
from federation.services.pipeline import Pipeline
from federation.services.runtime import Runtime
from federation.transport.connection import Http2Connection
from federation.transport.dispatch import Route
from federation.transport.incoming import ReceiveBounds
from federation.transport.refusals import RefusedCalls
from federation.transport.session import Http2Settings
from federation.transport.tls import TlsLayer

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls

_SWEEP_S = 0.25
_BUFFER_BYTES = 2**18  # the most that is read from a socket in one go: it fits a core's cache
_BACKLOG = 1024
_WINDOW_MIN, _WINDOW_MAX = 2**14, 2**16  # of a stream before its handler reads
_LOOKAHEAD_MIN, _LOOKAHEAD_MAX = 2**16, 2**20


def routes(services: Iterable[Service], runtime: Runtime) -> dict[bytes, Route]:
    """Return the methods of these services by their paths."""
    found = {}
    for service in services:
        for name, method in service.methods().items():
            full = f"{service.name}/{name}"
            found[f"/{full}".encode()] = Route(
                Pipeline(full, method, runtime),
                answers_once=isinstance(method, Unary | ClientStream),
                bounds=_bounds(method, runtime.limits),
            )
    return found


def _bounds(method: Method, limits: LimitsConfig) -> ReceiveBounds:
    share_bytes = limits.buffer_memory // limits.streams
    if isinstance(method, Unary | ServerStream):
        return ReceiveBounds(method.request_max, limits.message, _window_bytes(limits), 0)
    lookahead_bytes = _between(_LOOKAHEAD_MIN, share_bytes, _LOOKAHEAD_MAX)
    return ReceiveBounds(limits.message, limits.message, _window_bytes(limits), lookahead_bytes)


def _window_bytes(limits: LimitsConfig) -> int:
    return _between(_WINDOW_MIN, limits.buffer_memory // 4 // limits.streams, _WINDOW_MAX)


class Http2Server:
    """Serves these routes on one listener's sockets: start, stop, each once."""

    def __init__(
        self,
        routes: Mapping[bytes, Route],
        limits: LimitsConfig,
        clock: Clock,
        hits: LimitHits,
        budget: MemoryBudget,
        connections: OpenConnections[Http2Connection],
        tls: LiveTls | None = None,
    ) -> None:
        """hits, budget: those of the whole node. connections: what the routes' Runtime has, too."""
        self.routes = routes
        self.clock = clock
        self.hits = hits
        self.budget = budget
        self.log = ConnectionLog(clock)
        self.refused = RefusedCalls(clock)
        self.sweep_s = _SWEEP_S
        self._tasks: set[asyncio.Task[None]] = set()
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._settings = Http2Settings(limits.streams_per_connection, _window_bytes(limits))
        self._contexts = None if tls is None else Contexts(tls, HTTP2)
        self.registry = ConnectionRegistry(connections, limits, hits)
        self._servers: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Http2Server {len(self.registry)} connections>"

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these sockets, which listen already; they are the server's from now on."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(
                await loop.create_server(self._connection, sock=each, backlog=_BACKLOG)
            )
        self._look()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; let running ones go on for grace_s at most, then end them."""
        for server in self._servers:
            server.close()
        for connection in self.registry:
            connection.drain()
        await self.registry.until_empty(grace_s)
        for connection in self.registry:
            connection.end_calls()
        await self.registry.until_empty(1.0)
        for connection in self.registry:
            connection.abort()
        await self.registry.until_empty(1.0)
        if self._tasks:  # they clean up
            await asyncio.wait(self._tasks)
        if self._sweep is not None:
            self._sweep.cancel()

    def _look(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._look)
        now_s = self.clock.monotonic_s()
        self.refused.forget()
        for connection in self.registry:
            connection.look(now_s)

    # For connections

    def _connection(self) -> Http2Connection:
        tls = None if self._contexts is None else TlsLayer(self._contexts.current())
        return Http2Connection(self, self._settings, tls)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a call; it is kept until it ends, whatever becomes of its connection."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _between(least: int, wanted: int, most: int) -> int:
    return max(least, min(wanted, most))
