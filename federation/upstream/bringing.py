"""Brings blobs here that nobody reads: what prefetching, healing and warming have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import structlog

from federation.core.digest import Digest
from federation.core.errors import FederationError, StorageFailed, StorageFull
from federation.core.pace import Pace
from federation.upstream.pull_through import PullThrough, UpstreamPool
from federation.upstream.small_pulls import SMALL_PULL_BYTES

_BATCH_BYTES = 2 * 1024 * 1024
_log = structlog.get_logger(__name__)


class Brought(NamedTuple):
    """What a store has brought so far."""

    blobs: int = 0
    size_bytes: int = 0


class BringingStore(PullThrough):
    """A store whose find_missing pulls the missing blobs, from any upstream that has them.

    It shares the pulls of clients, which read the same blobs at the same time.
    """

    def __init__(self, shared: UpstreamPool, pace: Pace | None = None) -> None:
        """pace: how fast blobs are pulled that no client wants meanwhile; None: as they come."""
        super().__init__(shared, includes_upstreams=False)
        self._pool = shared
        self._pace = pace
        self.brought = Brought()
        self._coming: set[Digest] = set()  # counted by the call that found them missing first

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Pull the missing blobs; return those that no upstream sent."""
        missing = await super().find_missing(digests)
        if not missing:
            return missing
        mine = missing - self._coming
        self._coming |= mine
        try:
            left = await self._bring(missing)
        finally:
            self._coming -= mine
        came = mine - left
        self.brought = Brought(
            self.brought.blobs + len(came),
            self.brought.size_bytes + sum(digest.size_bytes for digest in came),
        )
        return left

    async def _bring(self, missing: set[Digest]) -> set[Digest]:
        by_size = sorted(missing, key=lambda each: each.size_bytes)
        small = [digest for digest in by_size if digest.size_bytes <= SMALL_PULL_BYTES]
        for batch in batches(small):
            await self._pull_batch(batch)
        for digest in by_size[len(small) :]:
            await self._pull(digest)
        # Small blobs are answered from memory first, and these are pulled to be kept.
        await self._pool.small.wait_kept()
        # Storage has the last word: what came may not have been kept, or have come another way.
        return await super().find_missing(missing)

    async def turn(self) -> None:
        """Wait until more may be asked for."""
        if self._pace is not None:
            await self._pace.turn()

    async def _pull_batch(self, batch: list[Digest]) -> None:
        await self.turn()
        came = await self.read_small(batch)
        if self._pace is not None:
            self._pace.spend(sum(len(data) for data in came if data is not None))

    async def _pull(self, digest: Digest) -> None:
        await self.turn()
        # read_small checks this itself. The offline switch may be set while the pace waits.
        if not self._pool.may_ask():
            return
        try:
            await self._pool.pulls.fetch(digest, self._pace)
        # Not raised: a smaller blob may still fit, and the caller is told what is missing.
        except (StorageFull, StorageFailed) as error:
            _log.warning("pulled_blobs_not_kept", reason=str(error))
        except FederationError as error:
            _log.debug("blob_not_brought", digest=str(digest), reason=str(error))
            # Where no upstream may be asked, all pulls fail at once: the event loop needs its turn.
            await asyncio.sleep(0)


def batches(digests: Iterable[Digest]) -> Iterator[list[Digest]]:
    """Yield small blobs in groups of about 2 MiB, each for one call."""
    batch: list[Digest] = []
    room_bytes = _BATCH_BYTES
    for digest in digests:
        batch.append(digest)
        room_bytes -= digest.size_bytes
        if room_bytes < 0:
            yield batch
            batch, room_bytes = [], _BATCH_BYTES
    if batch:
        yield batch
