"""The pulls under way: one for each blob, started by the first reader and joined by the others.

A request that came from another node joins a pull that makes progress, but does not wait long for
one that has received nothing: that pull may be waiting for the very node that asks. The request
then starts a pull with its own hops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, OffsetOutside, SourceUnavailable, TooBusy
from federation.core.memory_budget import MemoryBudget
from federation.core.pace import Pace
from federation.core.purges import Purged, nothing_purged
from federation.core.store import Chunks, LocalStore, NextBytes
from federation.core.tasks import Background
from federation.upstream.arrivals import Arrivals
from federation.upstream.candidates import Candidates, MixedBlobs
from federation.upstream.pull import Pull
from federation.upstream.pull_buffer import Range
from federation.upstream.upstream import Upstream

_PATIENCE_S = 0.3  # of a request from another node with a pull that has received nothing

_Key = tuple[Digest, hops.Hops | None]  # None: for all requests, whatever nodes they passed


class Pulls:
    """Single-flight reading from upstreams into a local store."""

    def __init__(
        self,
        local: LocalStore,
        upstreams: Sequence[Upstream],
        clock: Clock,
        pulls_max: int,
        budget: MemoryBudget,
        purged: Purged = nothing_purged,
    ) -> None:
        """purged: tells which blobs were purged here; those are not pulled."""
        self._local = local
        self._purged = purged
        self._upstreams = upstreams
        self._clock = clock
        self.pulls_max = pulls_max
        self._budget = budget
        self._pulls: dict[_Key, Pull] = {}
        self._mixed = MixedBlobs()
        self._arrivals = Arrivals(local, clock)
        self._background = Background()
        self.kept = 0  # pulls that ended; a look before this changed may have missed a blob
        self.joined = 0  # reads that cost no upstream read, because one was under way

    def __repr__(self) -> str:
        return f"<Pulls {len(self._pulls)} of {self.pulls_max}>"

    def open_read(
        self,
        digest: Digest,
        offset: int,
        limit: int | None,
        next_bytes: NextBytes | None,
        *,
        looked_at: int | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """Read a blob that is not here through its pull.

        looked_at: the value of kept before the caller looked in storage; None: look again.

        Raises on entry BlobNotFound, OffsetOutside, TooBusy, StorageFull; while iterating also
        SourceUnavailable and BlobDamaged.
        """
        return self._reading(digest, offset, limit, next_bytes, looked_at)

    async def fetch(self, digest: Digest, pace: Pace | None = None) -> None:
        """Bring a blob here without reading it. Raises what open_read raises.

        pace: kept by a pull that this begins, until anybody else wants the blob.
        """
        pull = await self._begun(digest, pace=pace)
        try:
            await pull.buffer.wait_stored()
        finally:
            await asyncio.shield(pull.leave())

    async def close(self) -> None:
        """Stop all pulls."""
        await self._arrivals.close()
        await self._background.close()

    @asynccontextmanager
    async def _reading(
        self,
        digest: Digest,
        offset: int,
        limit: int | None,
        next_bytes: NextBytes | None,
        looked_at: int | None,
    ) -> AsyncIterator[Chunks]:
        # The end itself is allowed: clients that resume ask there, and get nothing.
        if not 0 <= offset <= digest.size_bytes:
            raise OffsetOutside(digest, offset)
        end = digest.size_bytes if limit is None else min(offset + limit, digest.size_bytes)
        pull = await self._begun(digest, looked_at)
        try:
            reader = Range(offset, end)
            # Entering settles whether the blob is here. Behind its last byte nothing comes.
            await pull.buffer.wait_beyond(min(offset, digest.size_bytes - 1), reader)
            yield pull.follow(reader, next_bytes)
        finally:
            await asyncio.shield(pull.leave())

    async def _begun(
        self, digest: Digest, looked_at: int | None = None, pace: Pace | None = None
    ) -> Pull:
        """Join a pull, so that the caller can wait for it. The caller must leave it."""
        passed = hops.current()
        if await self._purged([digest]):
            raise BlobNotFound(digest)
        pull = self._join((digest, None), looked_at, pace)
        # Begun by this request or by one with the same hops: no node waits for itself.
        if pull.passed == passed:
            return pull
        try:
            # No node waits for a client, so a client may wait for as long as the pull takes.
            async with asyncio.timeout(_PATIENCE_S if passed.via else None):
                await pull.buffer.wait_begun()
        except (TimeoutError, BlobNotFound):  # upstreams may answer the others differently
            await asyncio.shield(pull.leave())
            return self._join((digest, passed))
        except BaseException:
            await asyncio.shield(pull.leave())
            raise
        return pull

    def _join(self, key: _Key, looked_at: int | None = None, pace: Pace | None = None) -> Pull:
        pull = self._pulls.get(key)
        # One that has failed only releases what it holds; another attempt may go better.
        if pull is not None and pull.buffer.error is None:
            self.joined += 1
            pull.join(saves_read=True)
        else:
            pull = self._start(key, look_again=looked_at != self.kept, pace=pace)
            pull.join()
        return pull

    def _start(self, key: _Key, *, look_again: bool, pace: Pace | None) -> Pull:
        digest, _ = key
        # Refused and not queued: each pull holds a file, and readers of the others go on.
        if len(self._pulls) >= self.pulls_max:
            raise TooBusy(f"{self.pulls_max} blobs are being pulled from upstreams; try again")
        candidates = Candidates(digest, self._upstreams, self._mixed)
        passed = hops.current()
        parts = candidates, self._local, self._clock, self._budget, passed, pace, self._purged
        pull = Pull(digest, *parts)
        self._pulls[key] = pull
        pull.task = self._background.start(self._run(key, pull, look_again), f"pull {digest}")
        return pull

    async def _run(self, key: _Key, pull: Pull, look_again: bool) -> None:
        try:
            if look_again and await self._is_held(pull.digest):
                # It came between the caller's look and its joining.
                pull.buffer.mark_committed(from_elsewhere=True)
            else:
                with self._arrivals.watching([pull.digest], partial(self._on_arrival, pull)):
                    await pull.run()
        finally:
            # Before the pull leaves the table: whoever finds none there looks into storage again.
            self.kept += 1
            # Another one may have taken the place of a pull that failed.
            if self._pulls.get(key) is pull:
                del self._pulls[key]

    async def _is_held(self, digest: Digest) -> bool:
        try:
            return not await self._local.find_missing([digest])
        except SourceUnavailable:  # the disk does not answer; an upstream may have it
            return False

    async def _on_arrival(self, pull: Pull, _digests: set[Digest]) -> None:
        # Not awaited: comparing the bytes of one pull must not hold up news for the others.
        self._background.start(pull.came_here(), f"end pull {pull.digest}")
