"""What `federation pull` runs in its own process: a node's storage and upstreams, and no listener.

It works on the data directory beside the processes that serve it, or without any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from federation.closure.checker import ClosureChecker
from federation.config.limits import LiveLimits
from federation.config.model import Config
from federation.core.clock import Clock
from federation.core.errors import ConfigError, SourceUnavailable
from federation.core.memory_budget import MemoryBudget
from federation.core.pace import Pace
from federation.observability.metrics import Metrics
from federation.storage.factory import open_storage
from federation.upstream.setup import Pulling
from federation.upstream.warmer import Warmer


@asynccontextmanager
async def warming(
    config: Config, pace: Pace, clock: Clock, *, resume: bool
) -> AsyncIterator[Warmer]:
    """Open the storage of a configuration for one run.

    resume: names whose closures are here are not asked for again at their upstreams.

    Raises ConfigError (no upstreams), SourceUnavailable (the node is offline), StorageRefused.
    """
    if not config.upstreams:
        raise ConfigError("no upstreams are configured, so there is nothing to pull from")
    metrics = Metrics()
    limits = LiveLimits.of(config.limits)
    storage = await open_storage(config, metrics, clock)
    closures = ClosureChecker(storage, limits, clock, storage)
    budget = MemoryBudget(limits.buffer_memory)
    pulling = Pulling(config, storage, closures, limits, metrics, clock, budget)
    try:
        if pulling.shared.offline:
            raise SourceUnavailable("upstreams", "this node is offline, see `federation offline`")
        # No peers: holes of pins and lost blobs are the serving node's business.
        pulling.start(None)
        warmer = pulling.warmer(pace, ttl_s=float("inf") if resume else 0.0)
        try:
            yield warmer
        finally:
            await warmer.close()
    finally:
        for close in [*pulling.closers, closures.close, storage.close]:
            await close()
