"""A node's real services in this process, and the client of another node that is connected."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from federation.access.access import SameForAll
from federation.access.rights import Rights, everybody
from federation.closure.checker import ClosureChecker
from federation.config.model import LimitsConfig
from federation.core.clock import Clock, SystemClock
from federation.core.index import Index
from federation.core.memory_budget import MemoryBudget
from federation.core.store import LocalStore
from federation.observability.metrics import Metrics
from federation.remote.client import Remote
from federation.remote.index import RemoteIndex
from federation.remote.settings import RemoteSettings
from federation.remote.store import RemoteStore
from federation.services.acknowledge import Acknowledge
from federation.services.action_cache import ActionCacheService
from federation.services.bytestream import ByteStreamService
from federation.services.capabilities import CapabilitiesService
from federation.services.cas import CasService
from federation.services.checksum import ChecksumVerifier
from federation.services.cpu_pool import Compute
from federation.services.method import Service
from federation.services.remote_asset import FetchService, PushService
from federation.services.runtime import Runtime
from federation.services.transport import Connections
from tests.support.fakes import MemoryIndex
from tests.support.local_finder import LocalFinder
from tests.support.samples import sample_value
from tests.support.transports import serve_on_loopback

NODE_ID = "node-of-the-test"


def settings_for(address: str, **changes: Any) -> RemoteSettings:
    """Settings that fail fast: a test is about one failure, not about waiting for it.

    A call may take long on a busy machine; tests of what takes too long say how long that is.
    """
    base: dict[str, Any] = {
        "name": "there",
        "url": f"grpc://{address}",
        "retry_limit": 0,
        "retry_delay_s": 0.01,
        "request_timeout_s": 60.0,
        "stall_s": 5.0,
    }
    return RemoteSettings(**{**base, **changes})


@dataclass
class Here:
    """Our side of a connection."""

    remote: Remote
    store: RemoteStore
    index: RemoteIndex
    metrics: Metrics

    def counted(self, name: str, **labels: str) -> float:
        labels = {"remote": self.remote.name, **labels}
        return sample_value(self.metrics, name, labels)

    def calls(self, method: str, outcome: str = "ok") -> float:
        return self.counted("federation_remote_calls_total", method=method, outcome=outcome)


def connect(settings: RemoteSettings, clock: Clock | None = None) -> Here:
    """Make the client; close its remote at the end."""
    metrics = Metrics()
    rng = random.Random(7)
    remote = Remote(settings, metrics, clock or SystemClock(), rng, node_id=NODE_ID)
    return Here(remote, RemoteStore(remote), RemoteIndex(remote), metrics)


@asynccontextmanager
async def connected(
    address: str, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Here]:
    """Connect to a server, and close the connection behind the test."""
    here = connect(settings_for(address, **changes), clock)
    try:
        yield here
    finally:
        await here.remote.close()


@asynccontextmanager
async def serving(
    store: LocalStore,
    index: Index | None = None,
    *,
    limits: LimitsConfig | None = None,
    rights: Rights | None = None,
    acknowledge: Acknowledge | None = None,
    heard_from: Callable[[str], None] | None = None,
) -> AsyncIterator[str]:
    """Serve a node's services over these, and give the address."""
    limits, metrics, clock = limits or LimitsConfig(), Metrics(), SystemClock()
    index = index or MemoryIndex()
    budget, compute = MemoryBudget(limits.buffer_memory), Compute(2)
    closures = ClosureChecker(store, limits, clock, None)
    checksums = ChecksumVerifier(store)
    bytestream = ByteStreamService(store, limits, clock, metrics, budget, compute)
    services: list[Service] = [
        bytestream,
        CasService(store, limits, metrics, compute),
        CapabilitiesService(limits, 2**40),
        ActionCacheService(store, index, LocalFinder(index, closures), metrics),
        FetchService(LocalFinder(index, closures), checksums, clock, metrics),
        PushService(index, checksums),
    ]
    access = SameForAll(rights or everybody(push=True))

    def make_runtime(connections: Connections) -> Runtime:
        return Runtime(
            metrics,
            limits,
            clock,
            access,
            budget,
            connections,
            acknowledge,
            heard_from=heard_from,
        )

    server = await serve_on_loopback(services, make_runtime)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)
        await bytestream.close()
        await closures.close()
        compute.close()
