"""gRPC health (grpc.health.v1), as load balancers ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

HEALTH = "grpc.health.v1.Health"

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthControl:
    """What add_health returns: says to all watchers whether this server serves.

    Each service is as healthy as the server, whose own name is "". Setting never waits for a
    watcher, unlike in the servicer that comes with the library: one that takes no messages would
    hold up a drain.
    """

    def __init__(self, service_names: Iterable[str]) -> None:
        self.names = frozenset(("", HEALTH, *service_names))
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<HealthControl {'serving' if self._serving else 'not serving'}>"

    async def set(self, serving: bool) -> None:
        """Say from now on that all services serve, or do not. The first state is "do not"."""
        if serving != self._serving:
            self._serving = serving
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """Say "not serving" for good, and end the calls of those who watch.

        They would otherwise hold up a drain to its limit: a watcher never hangs up by itself.
        """
        self._serving = False
        self._ended = True
        self._changed.set()

    def status_of(self, service: str) -> int:
        """Return a HealthCheckResponse.ServingStatus."""
        if service not in self.names:
            return _UNKNOWN
        return _SERVING if self._serving else _NOT_SERVING

    async def changes(self, service: str) -> AsyncIterator[int]:
        """Yield the status, and again whenever it has changed, until end()."""
        told = None
        while True:
            changed = self._changed
            status = self.status_of(service)
            if status != told:
                told = status
                yield status
            elif self._ended:
                return
            else:
                await changed.wait()


class _Servicer:
    """The service's methods; the library's base class would only make them UNIMPLEMENTED."""

    def __init__(self, control: HealthControl) -> None:
        self._control = control

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        status = self._control.status_of(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=self._control.status_of(name))
                for name in self._control.names
            }
        )

    async def Watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for status in self._control.changes(request.service):
            yield health_pb2.HealthCheckResponse(status=status)


class Server(Protocol):
    """What handlers are added to: a server, or something in front of one."""

    def add_generic_rpc_handlers(self, handlers: Any, /) -> None:
        """Serve these."""
        ...


def add_health(server: Server, service_names: Iterable[str] = ()) -> HealthControl:
    """Serve grpc.health.v1.Health for these services; call before the server starts."""
    control = HealthControl(service_names)
    health_pb2_grpc.add_HealthServicer_to_server(_Servicer(control), server)
    return control
