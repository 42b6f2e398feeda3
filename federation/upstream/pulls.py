"""The pulls under way: one a blob, started by the first reader and joined by the others.

A request that came from another node joins a pull that gets on, but does not wait long for one that
has not begun: that may be waiting for the very node that asks. It then has one with its own hops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, OffsetOutside, SourceUnavailable, TooBusy
from federation.core.store import (
    CHUNK_BYTES,
    Chunks,
    LocalStore,
    NextBytes,
    Provenance,
    Source,
)
from federation.core.tasks import Background
from federation.upstream.arrivals import Arrivals
from federation.upstream.candidates import Candidates, Mixed
from federation.upstream.pull import Pull, Range
from federation.upstream.recent import Budget
from federation.upstream.upstream import Upstream

_PATIENCE_S = 0.3  # of a request from another node with a pull that has not begun

_Key = tuple[Digest, hops.Hops | None]  # None: of all who ask, whatever nodes they have passed


class Pulls:
    """Single-flight reading from upstreams into a local store."""

    def __init__(
        self,
        local: LocalStore,
        upstreams: Sequence[Upstream],
        clock: Clock,
        pulls_max: int,
        budget: Budget,
    ) -> None:
        self._local = local
        self._upstreams = upstreams
        self._clock = clock
        self.pulls_max = pulls_max
        self._budget = budget
        self._pulls: dict[_Key, Pull] = {}
        self._mixed = Mixed()
        self._arrivals = Arrivals(local, clock)
        self._background = Background()
        self.kept = 0  # pulls that ended; whoever looked before this changed may find a blob now
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

        looked_at: what kept was before the caller looked here; None: look again.

        Raises on entry BlobNotFound, OffsetOutside, TooBusy, StorageFull; while iterating also
        SourceUnavailable and BlobDamaged.
        """
        return self._reading(digest, offset, limit, next_bytes, looked_at)

    async def fetch(self, digest: Digest) -> None:
        """Bring a blob here without reading it. Raises what open_read raises."""
        pull = await self._begun(digest)
        try:
            await pull.wait_stored()
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
        if not 0 <= offset <= digest.size_bytes:
            raise OffsetOutside(digest, offset)
        end = digest.size_bytes if limit is None else min(offset + limit, digest.size_bytes)
        pull = await self._begun(digest, looked_at)
        try:
            reader = Range(offset, end)
            await pull.wait_beyond(min(offset, digest.size_bytes - 1), reader)
            yield self._follow(pull, reader, next_bytes)
        finally:
            await asyncio.shield(pull.leave())

    async def _begun(self, digest: Digest, looked_at: int | None = None) -> Pull:
        """Join a pull, so that the caller can wait for it; it must leave it."""
        passed = hops.current()
        pull = self._join((digest, None), looked_at)
        if pull.passed == passed:
            return pull
        try:
            async with asyncio.timeout(_PATIENCE_S if passed.via else None):
                await pull.wait_begun()
        except (TimeoutError, BlobNotFound):  # others may get answers that this one did not
            await asyncio.shield(pull.leave())
            return self._join((digest, passed))
        except BaseException:
            await asyncio.shield(pull.leave())
            raise
        return pull

    def _join(self, key: _Key, looked_at: int | None = None) -> Pull:
        pull = self._pulls.get(key)
        if pull is not None and pull.error is None:
            self.joined += 1
            pull.join(saves_read=True)
        else:
            pull = self._start(key, look_again=looked_at != self.kept)
            pull.join()
        return pull

    def _start(self, key: _Key, *, look_again: bool) -> Pull:
        digest, _ = key
        if len(self._pulls) >= self.pulls_max:
            raise TooBusy(f"{self.pulls_max} blobs are being pulled from upstreams; try again")
        provenance = Provenance(Source.UPSTREAM)
        pull = Pull(
            digest,
            Candidates(digest, self._upstreams, self._mixed),
            lambda: self._local.begin(digest, provenance=provenance),
            self._clock,
            self._budget,
            hops.current(),
        )
        self._pulls[key] = pull
        pull.started(self._background.start(self._run(key, pull, look_again), f"pull {digest}"))
        return pull

    async def _run(self, key: _Key, pull: Pull, look_again: bool) -> None:
        try:
            if look_again and await self._is_held(pull.digest):
                pull.is_here()  # it came between the caller's look and its joining
            else:
                with self._arrivals.told([pull.digest], partial(self._arrived, pull)):
                    await pull.run()
        finally:
            self.kept += 1
            if self._pulls.get(key) is pull:
                del self._pulls[key]

    async def _is_held(self, digest: Digest) -> bool:
        try:
            return not await self._local.find_missing([digest])
        except SourceUnavailable:  # its disk does not tell; an upstream may have it
            return False

    async def _arrived(self, pull: Pull, _digests: set[Digest]) -> None:
        self._background.start(pull.came_here(self._local), f"end pull {pull.digest}")

    async def _follow(
        self, pull: Pull, reader: Range, next_bytes: NextBytes | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield what has come, as it comes; what is left of it once it is kept, from storage."""
        offset, end = reader
        while offset < end:
            await pull.wait_beyond(offset, reader)
            if pull.committed and (end - offset > CHUNK_BYTES or not pull.is_readable):
                async with self._local.open_read(
                    pull.digest, offset=offset, limit=end - offset, next_bytes=next_bytes
                ) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            there = min(end, pull.available_to(reader)) - offset
            wanted = CHUNK_BYTES if next_bytes is None else next_bytes()
            size = min(max(wanted, 1), CHUNK_BYTES, there)
            data = await pull.read(offset, size)
            if data is None:
                await pull.wait_stored()
                continue
            offset += len(data)
            handed_on = [data]
            del data  # who waits for the rest must not keep it
            yield handed_on.pop()
