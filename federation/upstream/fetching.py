"""What one process of a storage fetches though no client asks: lost blobs, and scheduled pulls.

Both are imported when they are due, so that a node's start need not wait for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from federation.config.upstreams import ScheduledPull
from federation.core.clock import Clock
from federation.core.pace import Pace
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.storage.contract import NodeStorage
from federation.upstream.pull_through import UpstreamPool

if TYPE_CHECKING:
    from federation.upstream.peer_copies import Holders
    from federation.upstream.pull_schedule import PullSchedule
    from federation.upstream.warmer import Warmer

_HEAL_AFTER_S = 1.0  # after a start


class Fetching:
    """Does nothing before start()."""

    def __init__(
        self,
        storage: NodeStorage,
        shared: UpstreamPool,
        make_warmer: Callable[[Pace], Warmer],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """make_warmer: see PullSchedule."""
        self._storage = storage
        self._shared = shared
        self._make_warmer = make_warmer
        self._metrics = metrics
        self._clock = clock
        self._background = Background()
        self._schedule: PullSchedule | None = None  # made with the first scheduled pull
        self._started = False

    def __repr__(self) -> str:
        return f"<Fetching {'lead' if self._storage.fetching.holds_lead() else 'waits'}>"

    def start(self, holders: Holders, schedule: Sequence[ScheduledPull]) -> None:
        """Begin to heal, and to pull what is scheduled. holders: see PeerCopies."""
        # Before apply(), which does nothing otherwise: a reload may come before the start.
        self._started = True
        self._keep(partial(self._heal, holders), "healing")
        self.apply(schedule)

    def apply(self, schedule: Sequence[ScheduledPull]) -> None:
        """Pull what this schedule says from now on."""
        # Without a schedule its module is never imported.
        if not self._started or (self._schedule is None and not schedule):
            return
        if self._schedule is None:
            from federation.upstream.pull_schedule import PullSchedule  # noqa: PLC0415 - see above

            self._schedule = PullSchedule(
                self._make_warmer, self._storage.fetching, self._metrics, self._clock
            )
            self._keep(self._schedule.run, "scheduled pulls")
        self._schedule.apply(schedule)

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows; nothing without a schedule."""
        return {} if self._schedule is None else {"schedule": self._schedule.describe()}

    async def close(self) -> None:
        """Stop everything; what was brought stays."""
        await self._background.close()
        if self._schedule is not None:
            await self._schedule.close()

    def _keep(self, work: Callable[[], Any], name: str) -> None:
        self._background.keep(work, name, self._clock, self._metrics.failing)

    async def _heal(self, holders: Holders) -> None:
        # A start answers clients first; the import below takes CPU from them.
        await self._clock.sleep(_HEAL_AFTER_S)
        from federation.upstream.healer import Healer  # noqa: PLC0415 - see above

        jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        lost, lead = self._storage.lost, self._storage.fetching
        healer = Healer(lost, lead, self._shared, holders, self._metrics, self._clock, jitter)
        await healer.run()
