"""Pulls the rest of a pulled entry's closure in the background.

A site that asked for an artifact once can then serve it whole after its link is cut. The prefetcher
walks the closure over a store whose find_missing pulls missing blobs: structures are read on the
way, leaves are pulled in batches.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from typing import Literal

import structlog

from federation.closure.names import names_of_entry
from federation.closure.walk import TooLarge, Walk, WalkContext
from federation.config.model import LimitsConfig
from federation.core import hops
from federation.core.digest import Digest
from federation.core.errors import FederationError
from federation.core.index import Entry, EntryKey
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.upstream.pull_through import PullThrough, UpstreamPool
from federation.upstream.small_pulls import SMALL_PULL_BYTES

_BATCH_BYTES = 2 * 1024 * 1024
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
        self._queue[entry.key] = entry
        if len(self._queue) > self._queued_max:
            self._queue.popitem(last=False)
            self._dropped.inc()
        if self._running < self._workers:
            self._running += 1
            self._background.start(self._work(), "prefetch")

    def log_not_kept(self, entry: Entry, error: FederationError) -> None:
        """Log that a pulled entry could not be stored."""
        _log.warning("pulled_entry_not_kept", entry=entry.label, reason=str(error))

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
            walk = Walk(_Pulling(self._shared), self._limits, self._context)
            whole = await walk.complete(lambda: names_of_entry(entry))
            _log.debug("prefetched", entry=entry.label, whole=whole)
        except (TooLarge, FederationError) as error:
            _log.info("prefetch_stopped", entry=entry.label, reason=str(error))


class _Pulling(PullThrough):
    """A store whose find_missing pulls the missing blobs, from any upstream that has them.

    It shares the pulls of clients, which read the same blobs at the same time.
    """

    def __init__(self, shared: UpstreamPool) -> None:
        super().__init__(shared, includes_upstreams=False)
        self._pool = shared

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Pull the missing blobs; return those that no upstream sent."""
        missing = await super().find_missing(digests)
        batch: list[Digest] = []
        for digest in sorted(missing, key=lambda each: each.size_bytes):
            if digest.size_bytes > SMALL_PULL_BYTES:
                await self._pull(digest)
                continue
            batch.append(digest)
            if sum(each.size_bytes for each in batch) > _BATCH_BYTES:
                await self.read_small(batch)
                batch = []
        if batch:
            await self.read_small(batch)
        if not missing:
            return missing
        await self._pool.small.wait_kept()
        return await super().find_missing(missing)

    async def _pull(self, digest: Digest) -> None:
        if not self._pool.may_ask():
            return
        try:
            await self._pool.pulls.fetch(digest)
        except FederationError as error:
            _log.debug("prefetch_missed", digest=str(digest), reason=str(error))
            await asyncio.sleep(0)
