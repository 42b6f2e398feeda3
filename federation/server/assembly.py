"""From a configuration to a node, as a recipe: storage, services, listeners, HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from federation import __version__
from federation.access.access import ListenerAccess
from federation.access.setup import LoadedFiles, make_access
from federation.config.limits import LiveLimits
from federation.config.model import Config, ListenerConfig
from federation.config.types import parse_address
from federation.core.clock import Clock, SystemClock, utc_text
from federation.core.memory_budget import MemoryBudget
from federation.observability.logs import recent_warnings
from federation.observability.metrics import Metrics
from federation.observability.statistics.files import folder_of
from federation.observability.statistics.recorder import StatisticsRecorder
from federation.replication.setup import Replication, make_replication
from federation.server.http import HttpServer, Pages
from federation.server.http.page_loading import LazyDashboard
from federation.server.http.places import OWN_MODE, UnixPlace
from federation.server.http.serving import http_servers
from federation.server.node import Node, Port
from federation.server.readiness import Readiness
from federation.server.server_factory import ListenerPlace, ServerFactory, server_factory
from federation.server.services import Services, make_services
from federation.server.statistics import ActivitySampler
from federation.server.unix_socket import process_socket
from federation.server.worker_slot import WorkerSlot
from federation.services.acknowledge import Acknowledge
from federation.services.bounds import SharedBounds
from federation.services.health import HealthControl, HealthService
from federation.services.method import Service
from federation.services.quotas import CallerQuotas
from federation.services.reflection import ReflectionService
from federation.services.runtime import Runtime
from federation.storage.contract import NodeStorage
from federation.storage.factory import open_storage

if TYPE_CHECKING:
    from federation.server.mesh import MeshParts
    from federation.server.trace_export import TraceExport


async def open_node(
    config: Config,
    files: LoadedFiles,
    clock: Clock | None = None,
    slot: WorkerSlot | None = None,
) -> Node:
    """Open the storage and build a node on it, ready to start; files: what load_access read.

    slot: of a process that is one of several behind the same ports.

    Raises StorageRefused.
    """
    clock = clock or SystemClock()
    metrics = Metrics()
    storage = await open_storage(config, metrics, clock)
    try:
        return build(config, files, storage, metrics, clock, slot or WorkerSlot())
    except BaseException:
        await storage.close()
        raise


def build(
    config: Config,
    files: LoadedFiles,
    storage: NodeStorage,
    metrics: Metrics,
    clock: Clock,
    slot: WorkerSlot,
) -> Node:
    """Build a node on an open storage, which is the node's from then on."""
    # First: what is made below looks for the tracer once, when it is made.
    traces = _traces_of(config, storage, metrics, clock)
    limits = LiveLimits.of(config.limits)
    # Memory is bounded for the node, so each of several processes has a part of it.
    budget = MemoryBudget(slot.part(limits.buffer_memory))
    bounds = SharedBounds.of(metrics, clock, budget)
    services = make_services(config, limits, storage, metrics, clock, budget, slot, bounds.hits)
    replication = make_replication(config, limits, storage, metrics, clock)
    mesh = _mesh_of(config, replication, metrics, clock, slot)
    quotas = CallerQuotas(limits, clock, metrics)
    ports = []
    access = make_access(config, files, metrics, clock)
    for at, (listener, allowed) in enumerate(zip(config.listeners, access.listeners, strict=True)):
        factory = server_factory(config.transport, listener.protocol)
        runtime = Runtime(
            metrics,
            limits,
            clock,
            allowed.rights,
            budget,
            factory.connections,
            acknowledge_of(listener, replication, storage, metrics, clock),
            quotas,
            config.log.audit,
            heard_from=replication.heard_from,
            bounds=bounds,
        )
        served = services.of(listener)
        # Nodes join at a listener with all services, not at one for HTTP or for the index alone.
        if mesh is not None and served is services.served:
            served = [*served, mesh.service]
        ports.append(make_port(listener, allowed, served, runtime, slot, at, factory))
    sampler = ActivitySampler(
        metrics, services.upstreams_with_blobs, lambda: replication.describe()["peers"]
    )
    statistics = StatisticsRecorder(folder_of(config.data_dir), sampler.changes, clock)
    readiness = Readiness(lambda: _health(storage, metrics))
    facts = {"node": config.node_name, "version": __version__}
    started_at = utc_text(clock.wall_s())
    pages = Pages(
        metrics,
        readiness,
        about=lambda: {
            **facts,
            "listeners": _shown(ports),
            "started-at": started_at,
            "requests-per-s": round(statistics.calls_per_s, 2),
            "limits-reached": bounds.hits.recent(),
            "recent-warnings": recent_warnings.newest_first(),
            "warnings": access.warnings(),
            **services.describe(),
            **replication.describe(),
        },
        limits_reached=bounds.hits.recent,
    )
    pages.dashboard = LazyDashboard(config, clock)
    own_socket = process_socket(config.data_dir)
    sockets = [HttpServer(UnixPlace(own_socket, OWN_MODE), pages.answer)]
    http = None
    # With workers, their parent answers the HTTP address for all.
    if slot.alone:
        http, shared = http_servers(config.http, pages.answer, access.http, bounds.hits, clock)
        sockets += shared
    services.start(replication.holders)
    replication.start()
    statistics.start(metrics.failing)
    closers = [statistics.close, replication.close, *services.closers, storage.close]
    if mesh is not None:
        mesh.start()
        closers.insert(0, mesh.close)
    if traces is not None:
        traces.start(metrics.failing)
        # Behind all that still makes spans, before the storage.
        closers.insert(-1, traces.close)
    return Node(
        ports=ports,
        http=http,
        sockets=sockets,
        own_socket=own_socket,
        watched=[] if access.http is None else access.http.watched,
        fetched=[each.fetched for each in access.all if each.fetched is not None],
        # Until no call runs any more replication goes on: some calls wait for peers.
        closers=closers,
        announce=partial(storage.announce, **facts),
        readiness=readiness,
        metrics=metrics,
        clock=clock,
        limits=limits,
        hits=bounds.hits,
        apply_config=partial(
            _apply_config, storage, limits, budget, services, replication, mesh, slot
        ),
    )


def _mesh_of(
    config: Config, replication: Replication, metrics: Metrics, clock: Clock, slot: WorkerSlot
) -> MeshParts | None:
    if config.mesh.url is None:
        return None
    # Not above: what makes and reads certificates takes time, and few nodes are in a mesh.
    from federation.server.mesh import MeshParts  # noqa: PLC0415

    introduces = slot.number == 1
    return MeshParts(
        config, lambda: replication.names, clock, metrics.failing, introduces=introduces
    )


def _traces_of(
    config: Config, storage: NodeStorage, metrics: Metrics, clock: Clock
) -> TraceExport | None:
    if config.traces.endpoint is None:
        return None
    # Not above: few nodes are traced.
    from federation.server.trace_export import make_traces  # noqa: PLC0415

    return make_traces(config, metrics, clock, storage.node_id)


def _health(storage: NodeStorage, metrics: Metrics) -> tuple[bool, str]:
    """Whether storage works, and all that goes on in the background."""
    serving, reason = storage.health()
    if serving and metrics.failing.reason:
        return False, metrics.failing.reason
    return serving, reason


def _apply_config(
    storage: NodeStorage,
    limits: LiveLimits,
    budget: MemoryBudget,
    services: Services,
    replication: Replication,
    mesh: MeshParts | None,
    slot: WorkerSlot,
    config: Config,
) -> None:
    """Apply a new configuration to all parts that can change while they run (keys declared live).

    Raises ConfigError before anything has changed.
    """
    # The one that may refuse comes first, so that a refusal leaves everything as it was.
    services.apply_config(config)
    storage.apply_config(config.storage)
    replication.apply_config(config)
    limits.apply_config(config.limits)
    budget.total_bytes = slot.part(limits.buffer_memory)
    if mesh is not None:
        mesh.look_again()


def acknowledge_of(
    listener: ListenerConfig,
    replication: Replication,
    storage: NodeStorage,
    metrics: Metrics,
    clock: Clock,
) -> Acknowledge | None:
    """Return what delays the OK of this listener's writes; None: nothing does."""
    if listener.acknowledge == "local":
        return None
    return Acknowledge(
        storage.ledger,
        listener.acknowledge,
        lambda: replication.names,
        listener.acknowledge_within,
        metrics,
        clock,
    )


def make_port(
    listener: ListenerConfig,
    access: ListenerAccess,
    services: Sequence[Service],
    runtime: Runtime,
    slot: WorkerSlot,
    place: int,
    factory: ServerFactory,
) -> Port:
    """Put health and reflection beside the gRPC services of one listener."""
    names = [service.name for service in services]
    health = HealthControl(names)
    beside: tuple[Service, ...] = ()
    if listener.protocol == "grpc":
        beside = (HealthService(health), ReflectionService(names, runtime.limits))
    port = slot.port(place, parse_address(listener.address).port)
    where = ListenerPlace(listener, port, slot.alone, access.tls)
    server = factory.make(where, [*services, *beside], runtime)
    return Port(server, access.tls, health, access.watched)


def _shown(ports: Sequence[Port]) -> list[dict[str, Any]]:
    return [
        {
            "address": str(port.server.address),
            "protocol": port.server.listener.protocol,
            "push": port.server.listener.push,
            "type": port.server.listener.type,
            "tls": port.tls is not None,
            "client-certs": port.tls is not None and bool(port.tls.pair.lists),
            "tokens": bool((auth := port.server.listener.auth) and auth.takes_tokens),
        }
        for port in ports
    ]
