"""Brings blobs here that nobody reads: what prefetching, healing and warming have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from federation.core.digest import Digest
from federation.core.errors import FederationError
from federation.upstream.pull_through import PullThrough, UpstreamPool
from federation.upstream.small_pulls import SMALL_PULL_BYTES

_BATCH_BYTES = 2 * 1024 * 1024
_log = structlog.get_logger(__name__)


class BringingStore(PullThrough):
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
            _log.debug("blob_not_brought", digest=str(digest), reason=str(error))
            await asyncio.sleep(0)
