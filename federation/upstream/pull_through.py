"""PullThrough: local storage, and behind it upstreams for whatever is missed.

When you would want it: always when upstreams are configured. Writes go to local storage only.
A request that has passed this node already is answered from local storage alone, so that nodes
which list each other end a miss instead of sending it round.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, FederationError
from federation.core.memory_budget import MemoryBudget
from federation.core.store import (
    FROM_CLIENT,
    Chunks,
    DigestCodec,
    Ingest,
    LocalStore,
    NextBytes,
    Provenance,
)
from federation.upstream.presence import UpstreamPresence
from federation.upstream.pulls import Pulls
from federation.upstream.self_detection import SelfDetector
from federation.upstream.small_pulls import SmallPulls
from federation.upstream.upstream import Upstream
from federation.upstream.whole import SMALL_PULL_BYTES, read_whole

_UNBOUNDED_BYTES = 2**62


class UpstreamPool:
    """What every view of one node's upstreams shares; one a process."""

    def __init__(
        self,
        node_id: str,
        local: LocalStore,
        upstreams: Sequence[Upstream],
        clock: Clock,
        *,
        pulls_max: int = 256,
        presence_budget_s: float = 0.5,
        memory: MemoryBudget | None = None,
    ) -> None:
        """memory: the bound on what pulls hold; None: there is none."""
        memory = memory or MemoryBudget(_UNBOUNDED_BYTES)
        self.node_id = node_id
        self.local = local
        self.upstreams = list(upstreams)
        self.offline = False
        self.pulls = Pulls(local, self.upstreams, clock, pulls_max, memory)
        self.small = SmallPulls(local, self.upstreams, clock, memory)
        self.presence = UpstreamPresence(self.upstreams, presence_budget_s)
        self.itself = SelfDetector(self.upstreams)

    def __repr__(self) -> str:
        return f"<UpstreamPool {self.upstreams!r}{' offline' if self.offline else ''}>"

    def may_ask(self) -> bool:
        """Whether the request being served may go to upstreams.

        A node of ours that replicates wants to know what is held here: what an upstream has may be
        gone when it is needed, and would then have been sent nowhere.
        """
        here = hops.current()
        if here.replicates:
            return False  # if it comes from this very node, it is a peer whose url is wrong
        if here.via and here.via[-1] == self.node_id:
            self.itself.called()
        if self.offline or here.is_at_its_end:
            return False
        return not here.passed(self.node_id)

    def written(self, digests: Iterable[Digest]) -> None:
        """These are being written here: how reads of them failed at upstreams is forgotten."""
        for upstream in self.upstreams:
            if upstream.wrongs or upstream.unreadable:
                for digest in digests:
                    upstream.note_came(digest)

    async def close(self) -> None:
        """Stop everything under way."""
        await self.pulls.close()
        await self.small.close()
        await self.presence.close()
        await self.itself.close()


class PullThrough:
    """A LocalStore whose misses are pulled.

    tells_upstreams: whether find_missing counts what upstreams have as present. Only for callers
    that may not push: one that may would skip an upload and rely on a cache that can go away.
    tells_nodes: the same for requests with hops: a node of ours asks on behalf of its readers. Only
    for the FindMissing call itself: an upload must never be answered "held" because of an upstream.
    only: ask this upstream and no other (for the closure of an entry that came from it).
    """

    def __init__(
        self,
        shared: UpstreamPool,
        *,
        tells_upstreams: bool,
        tells_nodes: bool = False,
        only: Upstream | None = None,
    ) -> None:
        self._shared = shared
        self._local = shared.local
        self._tells_upstreams = tells_upstreams
        self._tells_nodes = tells_nodes
        self._only = only

    def __repr__(self) -> str:
        return f"<PullThrough {self._shared!r}>"

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See federation.core.store.Store."""
        self._shared.itself.recognise(digests)
        missing = await self._local.find_missing(digests)
        if missing and self._tells():
            return await self._shared.presence.find_missing(missing, self._only)
        return missing

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        """See federation.core.store.LocalStore."""
        missing = await self._local.find_missing_named(names, spelling)
        tells = self._tells()
        if not missing or not (tells or self._shared.itself.is_looking):
            return missing
        in_order = list(missing)
        digests = spelling.digests_of(in_order)
        self._shared.itself.recognise(digests)  # one made up for that is never here
        if not tells:
            return missing
        nowhere = await self._shared.presence.find_missing(set(digests), self._only)
        return {name for name, digest in zip(in_order, digests, strict=True) if digest in nowhere}

    def _tells(self) -> bool:
        tells = self._tells_upstreams or (self._tells_nodes and bool(hops.current().via))
        return tells and self._shared.may_ask()

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """See federation.core.store.Store."""
        return self._reading(digest, offset, limit, next_bytes)

    @asynccontextmanager
    async def _reading(
        self, digest: Digest, offset: int, limit: int | None, next_bytes: NextBytes | None
    ) -> AsyncIterator[Chunks]:
        looked_at = self._shared.pulls.kept, self._shared.small.kept
        opened = self._local.open_read(digest, offset=offset, limit=limit, next_bytes=next_bytes)
        try:
            chunks = await opened.__aenter__()
        except BlobNotFound:
            if not self._shared.may_ask():
                raise
        else:
            try:
                yield chunks
            finally:
                await opened.__aexit__(None, None, None)
            return
        async with self._pulled(digest, offset, limit, next_bytes, *looked_at) as pulled:
            yield pulled

    @asynccontextmanager
    async def _pulled(
        self,
        digest: Digest,
        offset: int,
        limit: int | None,
        next_bytes: NextBytes | None,
        pulls_kept: int,
        small_kept: int,
    ) -> AsyncIterator[Chunks]:
        shared = self._shared
        if digest.size_bytes <= SMALL_PULL_BYTES:
            found = await shared.small.read([digest], self._only, looked_at=small_kept)
            data = found.get(digest)
            if data is None:
                raise BlobNotFound(digest)
            yield _slices(data, offset, limit, next_bytes)
            return
        opened = shared.pulls.open_read(digest, offset, limit, next_bytes, looked_at=pulls_kept)
        async with opened as chunks:
            yield chunks

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See federation.core.store.Store."""
        small_kept = self._shared.small.kept
        answers = await self._local.read_small(digests)
        absent = [d for d, data in zip(digests, answers, strict=True) if data is None]
        if not absent or not self._shared.may_ask():
            return answers
        shared = self._shared
        found = await read_whole(
            self._local, shared.pulls, shared.small, absent, self._only, looked_at=small_kept
        )
        return [
            found.get(digest) if data is None else data
            for digest, data in zip(digests, answers, strict=True)
        ]

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See federation.core.store.Store."""
        self._shared.written([digest])
        return await self._local.write(digest, chunks, provenance=provenance)

    async def write_small(
        self,
        blobs: Sequence[tuple[Digest, bytes]],
        *,
        provenance: Provenance = FROM_CLIENT,
    ) -> list[FederationError | None]:
        """See federation.core.store.Store."""
        self._shared.written([digest for digest, _ in blobs])
        return await self._local.write_small(blobs, provenance=provenance)

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        """See federation.core.store.LocalStore."""
        return await self._local.accept_held(digest, provenance=provenance)

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> Ingest:
        """See federation.core.store.LocalStore."""
        self._shared.written([digest])
        return self._local.begin(digest, provenance=provenance)

    def presence_epoch(self) -> int:
        """See federation.core.store.LocalStore."""
        return self._local.presence_epoch()

    def commits(self) -> int:
        """See federation.core.store.LocalStore."""
        return self._local.commits()


async def _slices(
    data: bytes, offset: int, limit: int | None, next_bytes: NextBytes | None
) -> AsyncIterator[bytes]:
    end = len(data) if limit is None else min(len(data), offset + limit)
    while offset < end:
        step = end - offset if next_bytes is None else max(1, next_bytes())
        yield data[offset : min(offset + step, end)]
        offset += step
