"""Pulls the rest of a pulled entry's closure in the background.

A site that asked for an artifact once can then serve it whole after its link is cut. The prefetcher
walks the closure over a store whose find_missing pulls missing blobs: structures are read on the
way, leaves are pulled in batches.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import structlog

from federation.closure.names import names_of_entry
from federation.closure.walk import Walk, WalkContext
from federation.config.model import LimitsConfig
from federation.core import hops
from federation.core.errors import FederationError
from federation.core.index import Entry, EntryKey
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.upstream.bringing import BringingStore
from federation.upstream.pull_through import UpstreamPool

_log = structlog.get_logger(__name__)

Mode = Literal["none", "metadata", "all"]


class Prefetcher:
    """Pulls a few closures at a time; the others wait in a bounded queue, each once.

    mode: "all" pulls everything. "metadata" and "none" pull only the structures, which serving an
    entry needs anyway.
    """

    def __init__(
        self,
        shared: UpstreamPool,
        limits: LimitsConfig,
        mode: Mode,
        metrics: Metrics,
        *,
        workers: int = 2,
        queued_max: int = 10_000,
    ) -> None:
        self._shared = shared
        self._limits = limits
        self.mode = mode
        self._workers = workers
        self._queued_max = queued_max
        self._queue: OrderedDict[EntryKey, Entry] = OrderedDict()
        self._context = WalkContext()
        self._running = 0
        self._background = Background()
        self._fetching = 0
        self._dropped = metrics.prefetches_dropped
        metrics.prefetches.set_function(lambda: len(self._queue) + self._fetching)

    def __repr__(self) -> str:
        return f"<Prefetcher {self.mode} {self._running} running, {len(self._queue)} queued>"

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        return not self._queue and not self._running

    def enqueue(self, entry: Entry) -> None:
        """Pull the rest of this entry's closure when there is time."""
        if self.mode != "all":
            return
        # A newer value takes the place of the older one in the queue: only that is served.
        self._queue[entry.key] = entry
        if len(self._queue) > self._queued_max:
            # The one that has waited longest goes: its clients have most likely read it all by now.
            self._queue.popitem(last=False)
            self._dropped.inc()
        # Few: what nobody has asked for yet shares the link with clients' reads.
        if self._running < self._workers:
            self._running += 1
            self._background.start(self._work(), "prefetch")

    async def close(self) -> None:
        """Stop all prefetches."""
        self._queue.clear()
        await self._background.close()

    async def _work(self) -> None:
        try:
            with hops.serving(hops.NOWHERE):  # on behalf of this node, not of a request
                while self._queue:
                    _, entry = self._queue.popitem(last=False)
                    await self._fetch(entry)
        finally:
            self._running -= 1

    async def _fetch(self, entry: Entry) -> None:
        self._fetching += 1
        try:
            await self._bring(entry)
        finally:
            self._fetching -= 1

    async def _bring(self, entry: Entry) -> None:
        try:
            # A store for each walk: what it counts as brought is this closure's.
            walk = Walk(BringingStore(self._shared), self._limits, self._context)
            whole = await walk.complete(lambda: names_of_entry(entry))
            _log.debug("prefetched", entry=entry.label, whole=whole)
        except FederationError as error:
            # No warning: the entry is still served, from here and its upstream together.
            _log.info("prefetch_stopped", entry=entry.label, reason=str(error))
