"""The services of a node: one object of each for all listeners of a kind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from federation.closure.checker import ClosureChecker
from federation.closure.pinned import pin_walk
from federation.config.model import Config, LimitsConfig, ListenerConfig
from federation.core.clock import Clock
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LimitHits
from federation.server.worker_slot import WorkerSlot
from federation.services.action_cache import ActionCacheService
from federation.services.bytestream import ByteStreamService
from federation.services.capabilities import CapabilitiesService
from federation.services.cas import CasService
from federation.services.checksum import ChecksumVerifier
from federation.services.cpu_pool import Compute
from federation.services.holdings import HoldingsService
from federation.services.method import Service
from federation.services.pins import PinsService
from federation.services.purges import PurgesService
from federation.services.references import ReferenceService
from federation.services.remote_asset import FetchService, PushService
from federation.storage.contract import NodeStorage
from federation.upstream.entry_finder import Finder
from federation.upstream.pinned_holes import PinnedHoles
from federation.upstream.pull_through import PullThrough
from federation.upstream.read_through import InstanceSources, LayeredFinder
from federation.upstream.setup import Pulling
from federation.wire.node_identity import LogPosition, NodeIdentity

if TYPE_CHECKING:
    from federation.upstream.peer_copies import Holders


class Services(NamedTuple):
    """The services of each kind of listener, and how to start, close and reconfigure them."""

    served: list[Service]
    index_served: list[Service]  # for listeners whose callers keep blobs elsewhere
    http_served: list[Service]
    closers: list[Callable[[], Awaitable[None]]]
    start: Callable[[Holders], None]
    describe: Callable[[], dict[str, Any]]
    upstreams_with_blobs: Callable[[], list[str]]
    apply_config: Callable[[Config], None]

    def of(self, listener: ListenerConfig) -> list[Service]:
        """Return what a listener serves."""
        if listener.protocol == "http":
            return self.http_served
        return self.index_served if listener.type == "index" else self.served


def make_services(
    config: Config,
    limits: LimitsConfig,
    storage: NodeStorage,
    metrics: Metrics,
    clock: Clock,
    budget: MemoryBudget,
    slot: WorkerSlot,
    hits: LimitHits,
) -> Services:
    """Return every service, pulling from upstreams where there are any, now or after a reload."""
    closures = ClosureChecker(storage, limits, clock, storage, hits=hits)
    pulling = Pulling(config, storage, closures, limits, metrics, clock, budget)
    compute = Compute(limits.threads)
    through = partial(PullThrough, pulling.shared)
    sources = InstanceSources(config.instances)
    purged = storage.ledger.purges.entries_among

    def layered(finder: Finder) -> Finder:
        return LayeredFinder(finder, storage, sources, purged)

    def announce() -> NodeIdentity:
        ledger = storage.ledger
        return NodeIdentity(ledger.node_id, LogPosition(ledger.log_epoch, ledger.head()))

    def of_names(finder: Finder, *, inlines: bool = True) -> list[Service]:
        store = through(includes_upstreams=False)
        checksums = ChecksumVerifier(store)
        fetch = FetchService(finder, checksums, clock, metrics)
        push = PushService(storage, checksums)
        return [
            CapabilitiesService(limits, config.storage.max_blob, announce),
            ActionCacheService(store, storage, finder, metrics, inlines=inlines),
            fetch,
            push,
            ReferenceService(fetch, push),
        ]

    asked_by_readers = through(includes_upstreams=True)
    # See decisions, "Readers may be told what upstreams have, pushers may not".
    asked_by_pushers = through(includes_upstreams=False, includes_for_nodes=True)
    cas = CasService(asked_by_readers, limits, metrics, compute, asked_by_pushers)
    local = through(includes_upstreams=False)
    stream = ByteStreamService(
        local,
        limits,
        clock,
        metrics,
        budget,
        compute,
        alone=slot.alone,
        quota_bytes=lambda: storage.quota_bytes,
        hits=hits,
    )
    http = None
    if any(listener.protocol == "http" for listener in config.listeners):
        # Not above: what parses HTTP is a sixth of the CPU of a start.
        from federation.http_cache.service import HttpCacheService  # noqa: PLC0415

        http = HttpCacheService(
            local,
            asked_by_readers,
            asked_by_pushers,
            storage,
            layered(pulling.finder),
            stream,
            config,
            limits,
            clock,
            metrics,
            storage.ledger.purges,
        )

    def apply_config(changed: Config) -> None:
        pulling.apply_config(changed)
        sources.apply_config(changed.instances)
        if http is not None:
            http.apply_config(changed)

    walk = pin_walk(limits)

    def start(holders: Holders) -> None:
        pulling.start(holders)
        holes = PinnedHoles(pulling.shared, holders, storage.ledger.purges.blobs_among, clock)
        # Only now: what pins lack is fetched by the pulling that has just begun.
        storage.keep_pins(walk, holes.bring)

    async def stop_fetching() -> None:
        # First: no pin may begin a new pull while the rest is closed.
        storage.keep_pins(walk, None)

    return Services(
        served=[
            cas,
            stream,
            *of_names(layered(pulling.finder)),
            HoldingsService(storage.ledger),
            PurgesService(storage.ledger.purges),
            PinsService(storage.ledger.pins),
        ],
        # No blobs, as with --index-only of BuildStream's own server.
        index_served=of_names(layered(pulling.index_finder), inlines=False),
        http_served=[] if http is None else [http],
        closers=[  # uploads, then threads, then what they use
            stop_fetching,
            stream.close,
            partial(asyncio.to_thread, compute.close),
            *pulling.closers,
            closures.close,
        ],
        start=start,
        describe=pulling.describe,
        upstreams_with_blobs=pulling.with_blobs,
        apply_config=apply_config,
    )
