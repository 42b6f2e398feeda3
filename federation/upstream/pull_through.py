"""PullThrough: local storage, with upstreams behind it for blobs that are not here.

When you would want it: always when upstreams are configured. Writes go to local storage only.
A request that has passed this node already is answered from local storage alone, so that a miss
ends at nodes that list each other instead of going round.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import BlobNotFound, FederationError
from federation.core.memory_budget import MemoryBudget
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.purges import Purged, nothing_purged
from federation.core.store import Chunks, DigestCodec, Ingest, LocalStore, NextBytes
from federation.upstream.presence import UpstreamPresence
from federation.upstream.pulls import Pulls
from federation.upstream.self_detection import SelfDetector
from federation.upstream.small_pulls import SMALL_PULL_BYTES, SmallPulls, read_whole
from federation.upstream.upstream import Upstream

_UNBOUNDED_BYTES = 2**62


class UpstreamPool:
    """The upstreams of a node and the pulls from them; one for each process."""

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
        purged: Purged = nothing_purged,
    ) -> None:
        """memory: bounds the bytes that pulls hold. purged: tells which blobs do not come back."""
        memory = memory or MemoryBudget(_UNBOUNDED_BYTES)
        self.node_id = node_id
        self.local = local
        # One list for all that is made below: a reload changes it in place.
        self.upstreams = list(upstreams)
        self.offline = False
        self._purged = purged
        self.pulls = Pulls(local, self.upstreams, clock, pulls_max, memory, purged)
        self.small = SmallPulls(local, self.upstreams, clock, memory, purged)
        self.presence = UpstreamPresence(self.upstreams, presence_budget_s)
        self.self_detector = SelfDetector(self.upstreams)

    def __repr__(self) -> str:
        return f"<UpstreamPool {self.upstreams!r}{' offline' if self.offline else ''}>"

    def may_ask(self) -> bool:
        """Whether the request being served may go to upstreams.

        A peer that replicates wants to know what is held here: a blob that only an upstream has
        may be gone when it is needed, and would then have been sent nowhere.
        """
        here = hops.current()
        if here.replicates:
            return False  # also if it comes from this very node, as a peer whose url is wrong
        # The last hop is the sender: one of this node's upstreams is this node itself.
        if here.via and here.via[-1] == self.node_id:
            self.self_detector.on_own_request()
        if self.offline or here.is_at_its_end:
            return False
        return not here.passed(self.node_id)

    def askable_for_blobs(self) -> list[Upstream]:
        """Return the upstreams that serve blobs; none if the request may not go to upstreams."""
        found = [each for each in self.upstreams if each.serves_blobs]
        return found if found and self.may_ask() else []

    async def missing_everywhere(
        self, digests: Collection[Digest], only: Upstream | None
    ) -> set[Digest]:
        """Return those that no upstream has, or that were purged here. only: see PullThrough."""
        purged = await self._purged(digests)
        # What an upstream still has of them is not brought back by a read, so it is no promise.
        rest = set(digests) - purged if purged else digests
        return await self.presence.find_missing(rest, only) | purged

    def written(self, digests: Iterable[Digest]) -> None:
        """Forget how reads of these blobs failed at upstreams: they are being written here."""
        for upstream in self.upstreams:
            if upstream.wrongs or upstream.unreadable:
                for digest in digests:
                    upstream.note_came(digest)

    async def close(self) -> None:
        """Stop everything that is under way."""
        await self.pulls.close()
        await self.small.close()
        await self.presence.close()
        await self.self_detector.close()


class PullThrough:
    """A LocalStore that pulls the blobs it does not hold.

    includes_upstreams: whether find_missing counts blobs that upstreams have as present. Only for
    callers that may not push: a pusher would skip an upload and rely on a cache that can go away.
    includes_for_nodes: the same for requests with hops, which a node sends on behalf of its
    readers. Only for the FindMissing call itself: an upload must never be answered "held" because
    of an upstream.
    only: ask this upstream and no other (for the closure of an entry that came from it).
    """

    def __init__(
        self,
        shared: UpstreamPool,
        *,
        includes_upstreams: bool,
        includes_for_nodes: bool = False,
        only: Upstream | None = None,
    ) -> None:
        self._shared = shared
        self._local = shared.local
        self._includes_upstreams = includes_upstreams
        self._includes_for_nodes = includes_for_nodes
        self._only = only

    def __repr__(self) -> str:
        return f"<PullThrough {self._shared!r}>"

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See federation.core.store.Store."""
        self._shared.self_detector.recognise(digests)
        missing = await self._local.find_missing(digests)
        if missing and self._includes():
            return await self._shared.missing_everywhere(missing, self._only)
        return missing

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        """See federation.core.store.LocalStore."""
        missing = await self._local.find_missing_named(names, spelling)
        includes = self._includes()
        if not missing or not (includes or self._shared.self_detector.is_searching):
            return missing
        in_order = list(missing)
        digests = spelling.digests_of(in_order)
        self._shared.self_detector.recognise(digests)  # a random digest is never held here
        if not includes:
            return missing
        nowhere = await self._shared.missing_everywhere(set(digests), self._only)
        return {name for name, digest in zip(in_order, digests, strict=True) if digest in nowhere}

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        """See federation.core.store.LocalStore."""
        missing = self._local.find_missing_at_once(names, spelling)
        # Upstreams have to be waited for; and a search for itself looks at all questions.
        if missing and (self._includes() or self._shared.self_detector.is_searching):
            return None
        return missing

    def read_at_once(self, digest: Digest) -> bytes | None:
        """See federation.core.store.LocalStore."""
        try:
            return self._local.read_at_once(digest)
        except BlobNotFound:
            if self._shared.upstreams:
                return None
            raise

    def _includes(self) -> bool:
        includes = self._includes_upstreams or (
            self._includes_for_nodes and bool(hops.current().via)
        )
        return includes and self._shared.may_ask()

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """See federation.core.store.Store."""
        # Taken before the look in storage: a pull that ends in between then looks there again.
        looked_at = self._shared.pulls.kept, self._shared.small.kept
        here = self._local.open_read(digest, offset=offset, limit=limit, next_bytes=next_bytes)
        there = partial(self._pulled, digest, offset, limit, next_bytes, *looked_at)
        return _HereOrPulled(here, there, self._shared)

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
        # Before the look in storage: see open_read.
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
        if self._shared.upstreams:
            self._shared.written([digest for digest, _ in blobs])
        return await self._local.write_small(blobs, provenance=provenance)

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """See federation.core.store.LocalStore."""
        self._shared.written([digest])
        return await self._local.write_one(digest, data, provenance=provenance)

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        """See federation.core.store.LocalStore."""
        return await self._local.accept_held(digest, provenance=provenance)

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> Ingest:
        """See federation.core.store.LocalStore."""
        self._shared.written([digest])
        return self._local.begin(digest, provenance=provenance)

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None = None,
        *,
        announced_bytes: int = 0,
        provenance: Provenance = FROM_CLIENT,
    ) -> Ingest:
        """See federation.core.store.LocalStore."""
        return self._local.begin_unsized(
            function, raw_hash, announced_bytes=announced_bytes, provenance=provenance
        )

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        """See federation.core.store.LocalStore: upstreams cannot be asked without a size."""
        return await self._local.size_of(function, raw_hash)

    def commits(self) -> int:
        """See federation.core.store.LocalStore."""
        return self._local.commits()


class _HereOrPulled:
    """Opens a blob here, or else at upstreams. A generator as a context takes longer."""

    def __init__(
        self,
        here: AbstractAsyncContextManager[Chunks],
        there: Callable[[], AbstractAsyncContextManager[Chunks]],
        shared: UpstreamPool,
    ) -> None:
        self._opened = here
        self._there = there
        self._shared = shared

    async def __aenter__(self) -> Chunks:
        try:
            return await self._opened.__aenter__()
        except BlobNotFound:
            if not self._shared.may_ask():
                raise
        # Not in the except block: errors of the pull would carry the miss as their context.
        self._opened = self._there()
        return await self._opened.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._opened.__aexit__(kind, error, trace)


async def _slices(
    data: bytes, offset: int, limit: int | None, next_bytes: NextBytes | None
) -> AsyncIterator[bytes]:
    end = len(data) if limit is None else min(len(data), offset + limit)
    while offset < end:
        # At least one byte, or a reader without any room would make this loop endless.
        step = end - offset if next_bytes is None else max(1, next_bytes())
        yield data[offset : min(offset + step, end)]
        offset += step
