"""gRPC health (grpc.health.v1), as load balancers ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

from grpc_health.v1 import health_pb2

from federation.core.errors import EntryNotFound
from federation.services.call import Call
from federation.services.method import SMALL_REQUEST, Method, ServerStream, Unary

HEALTH = "grpc.health.v1.Health"

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthControl:
    """Tells all watchers whether this server serves.

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
        """Report from now on that all services serve, or that they do not, as at first."""
        if serving != self._serving:
            self._serving = serving
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """Report "not serving" for good, and end the calls of all watchers.

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
        reported = None
        while True:
            changed = self._changed
            status = self.status_of(service)
            # A change back before it was sent is none (health.proto: the current status).
            if status != reported:
                reported = status
                yield status
            # After the last status was sent.
            elif self._ended:
                return
            else:
                await changed.wait()


class HealthService:
    """grpc.health.v1.Health, on raw bytes as all services here."""

    name = HEALTH

    def __init__(self, control: HealthControl) -> None:
        self._control = control

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "Check": Unary(self._check, open_to_all=True, request_max=SMALL_REQUEST),
            "List": Unary(self._list, open_to_all=True, request_max=SMALL_REQUEST),
            "Watch": ServerStream(self._watch, open_to_all=True, request_max=SMALL_REQUEST),
        }

    async def _check(self, request: bytes, _call: Call) -> bytes:
        status = self._control.status_of(_service_in(request))
        if status == _UNKNOWN:
            raise EntryNotFound("no such service")
        return _answer(status)

    async def _list(self, _request: bytes, _call: Call) -> bytes:
        return bytes(
            health_pb2.HealthListResponse(
                statuses={
                    name: health_pb2.HealthCheckResponse(status=self._control.status_of(name))
                    for name in self._control.names
                }
            ).SerializeToString()
        )

    async def _watch(self, request: bytes, _call: Call) -> AsyncGenerator[bytes, None]:
        async for status in self._control.changes(_service_in(request)):
            yield _answer(status)


def _service_in(request: bytes) -> str:
    return str(health_pb2.HealthCheckRequest.FromString(request).service)


def _answer(status: int) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
