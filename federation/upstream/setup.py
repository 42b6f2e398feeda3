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
from federation.core.memory_budget import MemoryBudget
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.storage.contract import NodeStorage
from federation.upstream.entry_finder import FederatedFinder
from federation.upstream.prefetch import Prefetcher
from federation.upstream.probe import Prober
from federation.upstream.pull_through import UpstreamPool
from federation.upstream.status import describe_upstream
from federation.upstream.upstream import Upstream

if TYPE_CHECKING:
    from federation.remote.client import Remote
    from federation.upstream.connected import ConnectedUpstream
    from federation.upstream.healer import Holders

_log = structlog.get_logger(__name__)

_DRAIN_S = 600.0  # how long reads from an upstream that was removed may still take
_POLL_S = 0.25
_HEAL_AFTER_S = 1.0  # after a start


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
        self._offline = config.offline
        self._switch = storage.offline_switch
        self._metrics = metrics
        self._clock = clock
        self._node_id = storage.node_id
        self._jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._connected: dict[str, ConnectedUpstream] = {}
        self._background = Background()
        self._healing = Background()
        self._storage = storage
        self.shared = UpstreamPool(
            storage.node_id,
            storage,
            self._connect_all(config),
            clock,
            pulls_max=config.pull.blobs_at_once,
            presence_budget_s=config.pull.find_missing_time,
            memory=budget,
        )
        self._prefetcher = Prefetcher(self.shared, limits, config.pull.prefetch, metrics)
        make_finder = partial(
            FederatedFinder,
            storage,
            closures,
            self.shared,
            self._prefetcher.enqueue,
            limits,
            clock,
            index_ttl_s=config.pull.index_ttl,
        )
        self.finder = make_finder()
        self.index_finder = make_finder(blobs_elsewhere=True)
        self._prober = Prober(
            self.shared.upstreams, clock, lambda: not self.shared.offline, metrics.failing
        )
        self._switch.watch(self._apply_switch)

    def start(self, holders: Holders) -> None:
        """Begin to probe upstreams that are down, and to heal. holders: see Healer."""
        self._prober.start()
        self._healing.keep(
            partial(self._heal, holders), "healing", self._clock, self._metrics.failing
        )

    async def _heal(self, holders: Holders) -> None:
        await self._clock.sleep(_HEAL_AFTER_S)
        from federation.upstream.healer import Healer  # noqa: PLC0415 - a start need not wait for it

        healer = Healer(
            self._storage.lost,
            self._storage.fetching,
            self.shared,
            holders,
            self._metrics,
            self._clock,
            self._jitter,
        )
        await healer.run()

    def apply_config(self, config: Config) -> None:
        """Use the upstreams of this configuration from now on.

        An upstream whose settings are the same keeps its connection and its health. One
        that was removed is disconnected once the reads under way have ended.

        Raises ConfigError; then nothing has changed.
        """
        before = [upstream.name for upstream in self.shared.upstreams]
        self.shared.upstreams[:] = self._connect_all(config)
        self._offline = config.offline
        self._apply_switch(self._switch.is_on)
        self.shared.pulls.pulls_max = config.pull.blobs_at_once
        self.shared.presence.budget_s = config.pull.find_missing_time
        self.shared.self_detector.reset()
        self._prefetcher.mode = config.pull.prefetch
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
        }

    def with_blobs(self) -> list[str]:
        """Return the names of the upstreams that are asked for blobs, in this order."""
        return [each.name for each in self.shared.upstreams if each.serves_blobs]

    @property
    def closers(self) -> list[Callable[[], Awaitable[None]]]:
        """The calls that end everything, in this order."""
        return [
            self._prober.close,
            self._healing.close,
            self._prefetcher.close,
            self.finder.close,
            self.index_finder.close,
            self.shared.close,
            self._background.close,
            self._disconnect,
        ]

    def _connect_all(self, config: Config) -> list[Upstream]:
        """Connect these upstreams and retire all others. Raises ConfigError."""
        wanted = {each.name: self._connect(config, each) for each in config.upstreams}
        for name, old in self._connected.items():
            new = wanted.get(name)
            if new is None:
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
            while remote.calls.slots.running and self._clock.monotonic_s() < until_s:
                await self._clock.sleep(_POLL_S)
        finally:
            await remote.close()

    def _apply_switch(self, is_on: bool) -> None:
        self.shared.offline = self._offline or is_on

    async def _disconnect(self) -> None:
        for each in self._connected.values():
            await each.remote.close()
