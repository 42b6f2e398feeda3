"""Builds the pull-through from the configuration, and applies a changed one."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from federation.closure.checker import ClosureChecker
from federation.config.model import Config, LimitsConfig
from federation.config.upstreams import UpstreamConfig as Settings
from federation.core.clock import Clock
from federation.core.index import Entry
from federation.core.memory_budget import MemoryBudget
from federation.core.pace import Pace
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.storage.contract import NodeStorage
from federation.upstream.bringing import BringingStore
from federation.upstream.entry_finder import FederatedFinder
from federation.upstream.fetching import Fetching
from federation.upstream.prefetch import Prefetcher
from federation.upstream.probe import Prober
from federation.upstream.pull_through import UpstreamPool
from federation.upstream.status import describe_upstream
from federation.upstream.upstream import Upstream

if TYPE_CHECKING:
    from federation.remote.client import Remote
    from federation.upstream.connected import ConnectedUpstream
    from federation.upstream.peer_copies import Holders
    from federation.upstream.warmer import Warmer

_log = structlog.get_logger(__name__)

_DRAIN_S = 600.0  # how long reads from an upstream that was removed may still take
_POLL_S = 0.25


class Pulling:
    """A node's pull-through, also without upstreams; apply_config() changes them."""

    def __init__(
        self,
        config: Config,
        storage: NodeStorage,
        closures: ClosureChecker,
        limits: LimitsConfig,
        metrics: Metrics,
        clock: Clock,
        budget: MemoryBudget,
    ) -> None:
        """Connects to nothing yet: each upstream is connected when it is first asked."""
        self._storage = storage
        self._offline = config.offline
        self._switch = storage.offline_switch
        self._metrics = metrics
        self._clock = clock
        self._node_id = storage.node_id
        self._jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._connected: dict[str, ConnectedUpstream] = {}
        self._background = Background()
        self._scheduled = config.pull.schedule
        self.shared = UpstreamPool(
            storage.node_id,
            storage,
            self._connect_all(config),
            clock,
            pulls_max=config.pull.blobs_at_once,
            presence_budget_s=config.pull.find_missing_time,
            memory=budget,
            purged=storage.ledger.purges.blobs_among,
        )
        self._prefetcher = Prefetcher(self.shared, limits, config.pull.prefetch, metrics)
        self._closures, self._limits = closures, limits
        ttl_s, prefetch = config.pull.index_ttl, self._prefetcher.enqueue
        self.finder = self._find_with(prefetch, ttl_s)
        # For listeners of `type: index`, whose callers have their blobs on another server.
        self.index_finder = self._find_with(prefetch, ttl_s, blobs_elsewhere=True)
        self._prober = Prober(
            self.shared.upstreams, clock, lambda: not self.shared.offline, metrics.failing
        )
        # A schedule exists to bring what is new, so no pulled name is taken as it is.
        make_warmer = partial(self.warmer, ttl_s=0.0)
        self._fetching = Fetching(storage, self.shared, make_warmer, metrics, clock)
        self._switch.watch(self._apply_switch)

    def start(self, holders: Holders | None) -> None:
        """Begin to probe upstreams that are down, to heal, and to pull what is scheduled.

        holders: see PeerCopies; None: of a process that only a command runs, which leaves that
        alone.
        """
        self._prober.start()
        if holders is not None:
            self._fetching.start(holders, self._scheduled)

    def warmer(self, pace: Pace, *, ttl_s: float) -> Warmer:
        """Return what brings named closures here at a pace; the caller has to close it.

        ttl_s: how long a pulled name is taken as it is without asking its upstream.
        """
        from federation.upstream.warmer import Warmer  # noqa: PLC0415 - most nodes have no schedule

        store = BringingStore(self.shared, pace)
        return Warmer(self._find_with(None, ttl_s), store, self._limits, self._clock)

    def _find_with(
        self,
        prefetch: Callable[[Entry], object] | None,
        ttl_s: float,
        *,
        blobs_elsewhere: bool = False,
    ) -> FederatedFinder:
        return FederatedFinder(
            self._storage,
            self._closures,
            self.shared,
            prefetch,
            self._limits,
            self._clock,
            index_ttl_s=ttl_s,
            blobs_elsewhere=blobs_elsewhere,
            purged=self._storage.ledger.purges.entries_among,
        )

    def apply_config(self, config: Config) -> None:
        """Use the upstreams of this configuration from now on.

        An upstream whose settings are the same keeps its connection and its health. One
        that was removed is disconnected once the reads under way have ended.

        Raises ConfigError; then nothing has changed.
        """
        before = [upstream.name for upstream in self.shared.upstreams]
        # In place: pulls, questions and probes hold this very list.
        self.shared.upstreams[:] = self._connect_all(config)
        self._offline = config.offline
        # The file says only half of it: the switch may be on as well.
        self._apply_switch(self._switch.is_on)
        self.shared.pulls.pulls_max = config.pull.blobs_at_once
        self.shared.presence.budget_s = config.pull.find_missing_time
        # Another url may lead back to this node.
        self.shared.self_detector.reset()
        self._prefetcher.mode = config.pull.prefetch
        self._scheduled = config.pull.schedule
        self._fetching.apply(config.pull.schedule)
        self.finder.index_ttl_s = self.index_finder.index_ttl_s = config.pull.index_ttl
        after = [upstream.name for upstream in self.shared.upstreams]
        if before != after:
            _log.info("upstreams_changed", before=before, after=after)

    def describe(self) -> dict[str, Any]:
        """Return the facts that `status` and the index page show."""
        because = {"config": self._offline, "switch": self._switch.is_on}
        return {
            "offline": self.shared.offline,
            "offline-because": [name for name, is_so in because.items() if is_so],
            "upstreams": [
                describe_upstream(each, self._connected[each.name].remote)
                for each in self.shared.upstreams
            ],
            **self._fetching.describe(),
        }

    def with_blobs(self) -> list[str]:
        """Return the names of the upstreams that are asked for blobs, in this order."""
        return [each.name for each in self.shared.upstreams if each.serves_blobs]

    @property
    def closers(self) -> list[Callable[[], Awaitable[None]]]:
        """The calls that end everything, in this order."""
        return [
            # What begins work ends first, then what does it, and the connections last.
            self._prober.close,
            self._fetching.close,
            self._prefetcher.close,
            self.finder.close,
            self.index_finder.close,
            self.shared.close,
            self._background.close,
            self._disconnect,
        ]

    def _connect_all(self, config: Config) -> list[Upstream]:
        """Connect these upstreams and retire all others. Raises ConfigError."""
        # All of them first: a mistake in one must leave everything as it was.
        wanted = {each.name: self._connect(config, each) for each in config.upstreams}
        for name, old in self._connected.items():
            new = wanted.get(name)
            if new is None:
                # Otherwise its last value stays, and an alert about it never ends.
                self._metrics.upstream_up.remove(upstream=name)
            if new is not old:
                self._retire(old.remote)
        self._connected = wanted
        for each in wanted.values():
            each.upstream.answers.present_s = config.pull.present_for
            each.upstream.answers.absent_s = config.pull.absent_for
        return [each.upstream for each in wanted.values()]

    def _connect(self, config: Config, settings: Settings) -> ConnectedUpstream:
        """Return the upstream as it is, or a new one if its settings have changed."""
        known = self._connected.get(settings.name)
        # A breaker that is open and answers that are remembered stay true over a reload.
        if known is not None and known.settings == settings:
            return known
        # Not above: a node without upstreams does not need the client, a twentieth of the CPU of
        # its start.
        from federation.upstream.connected import connect  # noqa: PLC0415

        return connect(
            config, settings, self._metrics, self._clock, self._jitter, node_id=self._node_id
        )

    def _retire(self, remote: Remote) -> None:
        self._background.start(self._close_when_idle(remote), f"disconnect {remote.name}")

    async def _close_when_idle(self, remote: Remote) -> None:
        try:
            until_s = self._clock.monotonic_s() + _DRAIN_S
            # Readers of an upstream that was removed get their blobs to the end.
            while remote.calls.slots.running and self._clock.monotonic_s() < until_s:
                await self._clock.sleep(_POLL_S)
        finally:
            await remote.close()

    def _apply_switch(self, is_on: bool) -> None:
        self.shared.offline = self._offline or is_on

    async def _disconnect(self) -> None:
        for each in self._connected.values():
            await each.remote.close()
