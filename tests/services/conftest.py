"""A real server in the process: grpc.aio on port 0, the given services, a channel to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as re_grpc
from federation._proto.google.bytestream import bytestream_pb2_grpc
from federation.access.access import SameForAll
from federation.access.rights import Rights, everybody
from federation.config.model import LimitsConfig
from federation.core.clock import Clock, SystemClock
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.services.bytestream import ByteStreamService
from federation.services.cpu_pool import Compute
from federation.services.method import Service
from federation.services.quotas import CallerQuotas
from federation.services.runtime import Runtime
from federation.services.transport import Connections
from tests.services.bytestream import Client
from tests.support.fakes import MemoryStore
from tests.support.transports import Serving, serve_on_loopback


@dataclass
class Served:
    """A running server and one channel to it."""

    channel: grpc.aio.Channel
    port: int
    metrics: Metrics
    server: Serving

    @property
    def cas(self) -> re_grpc.ContentAddressableStorageStub:
        return re_grpc.ContentAddressableStorageStub(self.channel)

    @property
    def bytestream(self) -> bytestream_pb2_grpc.ByteStreamStub:
        return bytestream_pb2_grpc.ByteStreamStub(self.channel)

    def counted(self, name: str, **labels: str) -> float:
        return sum(
            value
            for family in self.metrics.declared.families()
            for (sample, carried), value in family.values.items()
            if sample == name and labels.items() <= dict(carried).items()
        )


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server: await serve(service, ..., limits=, may_push=, metrics=, clock=)."""
    running: list[Served] = []

    async def start(
        *services: Service,
        limits: LimitsConfig | None = None,
        may_push: bool = True,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        budget: MemoryBudget | None = None,
        rights: Rights | None = None,
        quotas: CallerQuotas | None = None,
        audit: bool = False,
    ) -> Served:
        limits, metrics = limits or LimitsConfig(), metrics or Metrics()
        clock = clock or SystemClock()
        budget = budget or MemoryBudget(limits.buffer_memory)
        access = SameForAll(rights or everybody(push=may_push))

        def make_runtime(connections: Connections) -> Runtime:
            return Runtime(
                metrics, limits, clock, access, budget, connections, quotas=quotas, audit=audit
            )

        server = await serve_on_loopback(services, make_runtime)
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        running.append(Served(channel, server.port, metrics, server))
        return running[-1]

    yield start
    for one in running:
        await one.channel.close(None)
        await one.server.stop(0)


@pytest.fixture
def compute() -> Iterator[Compute]:
    threads = Compute(2)
    yield threads
    threads.close()


async def status_of(call: Awaitable[object]) -> grpc.StatusCode:
    """Return the status other than OK that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return caught.value.code()


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connect(serve: Serve, store: MemoryStore, compute: Compute) -> AsyncIterator[Connect]:
    """Serve ByteStream and connect a client: await connect(limits=, other=, may_push=, clock=).

    To a clock that stands still every reader is fast, on a busy machine as well.
    """
    clients: list[Client] = []

    async def start(
        *,
        limits: LimitsConfig | None = None,
        other: MemoryStore | None = None,
        may_push: bool = True,
        clock: Clock | None = None,
    ) -> Client:
        limits, metrics, clock = limits or LimitsConfig(), Metrics(), clock or SystemClock()
        budget = MemoryBudget(limits.buffer_memory)
        service = ByteStreamService(other or store, limits, clock, metrics, budget, compute)
        served = await serve(
            service, limits=limits, metrics=metrics, budget=budget, may_push=may_push
        )
        clients.append(Client(served, service, budget))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
        await client.service.close()
