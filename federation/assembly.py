"""From a configuration to a node, as a recipe: storage, services, listeners, HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from federation import __version__
from federation.clock import Clock, SystemClock
from federation.config import Config, Listener
from federation.grpc_server import GrpcServer
from federation.node import Node, Port
from federation.readiness import Readiness
from federation.services.action_cache import ActionCacheService
from federation.services.asset_fetch import FetchService
from federation.services.asset_push import PushService
from federation.services.bytestream import ByteStreamService
from federation.services.capabilities import CapabilitiesService
from federation.services.cas import CasService
from federation.services.checksum import ChecksumVerifier
from federation.services.closure import ClosureChecker
from federation.services.compute import Compute
from federation.services.health import add_health
from federation.services.memory_budget import MemoryBudget
from federation.services.reflection import add_reflection
from federation.services.rpc import Runtime, Service, handlers
from federation.status import Metrics
from federation.storage import Storage
from federation.tls import KeyPair
from federation.web import HttpServer, Pages


async def open_node(
    config: Config, pairs: Sequence[KeyPair | None], clock: Clock | None = None
) -> Node:
    """Open the storage and build a node on it, ready to start; pairs are its listeners' TLS.

    Raises StorageRefused.
    """
    clock = clock or SystemClock()
    metrics = Metrics()
    storage = await Storage.open(config.data_dir, config.storage, config.limits, metrics, clock)
    try:
        return build(config, pairs, storage, metrics, clock)
    except BaseException:
        await storage.close()
        raise


def build(
    config: Config,
    pairs: Sequence[KeyPair | None],
    storage: Storage,
    metrics: Metrics,
    clock: Clock,
) -> Node:
    """Build a node on an open storage, which is the node's from then on."""
    limits = config.limits
    budget = MemoryBudget(limits.buffer_memory)
    services = make_services(config, storage, metrics, clock, budget)
    ports = []
    for listener, pair in zip(config.listeners, pairs, strict=True):
        runtime = Runtime(metrics, limits, clock, listener.push, budget)
        ports.append(make_port(listener, pair, services.served, runtime))
    readiness = Readiness(storage.health)
    facts = {"node": config.node_name, "version": __version__}
    http = None
    if config.http.address is not None:
        pages = Pages(metrics, readiness, lambda: {**facts, "listeners": _shown(ports)})
        http = HttpServer(config.http.address, pages.answer)
    return Node(
        ports=ports,
        http=http,
        closers=[*services.closers, storage.close],
        announce=partial(storage.announce, **facts),
        readiness=readiness,
        metrics=metrics,
        clock=clock,
        drain_s=limits.drain,
    )


class Services(NamedTuple):
    """What is served, and what has to be closed, in this order, when it is not any more."""

    served: list[Service]
    closers: list[Callable[[], Awaitable[None]]]


def make_services(
    config: Config, storage: Storage, metrics: Metrics, clock: Clock, budget: MemoryBudget
) -> Services:
    """Return every service; each is served on every listener, which knows who may write."""
    limits = config.limits
    compute = Compute(limits.threads)
    closures = ClosureChecker(storage, limits, clock, config.storage.lease)
    checksums = ChecksumVerifier(storage)
    byte_stream = ByteStreamService(storage, limits, clock, metrics, budget, compute)
    served: list[Service] = [
        CapabilitiesService(limits, config.storage.max_blob),
        CasService(storage, limits, metrics, compute),
        byte_stream,
        ActionCacheService(storage, storage, closures, metrics),
        FetchService(storage, closures, checksums, clock, metrics),
        PushService(storage, checksums),
    ]
    end_threads = partial(asyncio.to_thread, compute.close)
    return Services(served, [byte_stream.close, closures.close, end_threads])


def make_port(
    listener: Listener, pair: KeyPair | None, services: Sequence[Service], runtime: Runtime
) -> Port:
    """Put services, health and reflection behind one listener."""
    server = GrpcServer(listener, runtime.limits, handlers(services, runtime))
    names = [service.name for service in services]
    health = add_health(server.server, names)
    add_reflection(server.server, names)
    return Port(server, pair, health)


def _shown(ports: Sequence[Port]) -> list[dict[str, Any]]:
    return [
        {
            "address": str(port.server.address),
            "push": port.server.listener.push,
            "tls": port.pair is not None,
        }
        for port in ports
    ]
