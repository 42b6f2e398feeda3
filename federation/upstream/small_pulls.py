"""Pulls batches of small absent blobs from upstreams, in order.

Each blob is asked for once at a time: other requests for it wait for the same answer. Requests that
have passed different nodes do not share an answer: otherwise two nodes that ask each other would
wait for each other. Requests are answered as soon as the bytes are verified, from memory until the
bytes are durable here.

`read_whole` is for blobs that are wanted whole, whatever their size. A blob's size alone decides
which kind of pull it has: one client may stream a blob that another has in a batch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import (
    BlobDamaged,
    BlobNotFound,
    FederationError,
    SourceUnavailable,
)
from federation.core.memory_budget import MemoryBudget
from federation.core.provenance import Provenance, Source
from federation.core.purges import Purged, nothing_purged
from federation.core.store import LocalStore
from federation.core.tasks import Background
from federation.upstream.arrivals import Arrivals
from federation.upstream.download import PullBroke
from federation.upstream.pulls import Pulls
from federation.upstream.small_question import SmallQuestion
from federation.upstream.upstream import Upstream

SMALL_PULL_BYTES = 256 * 1024  # a blob up to this size comes whole, in one answer with others

_GATHER_S = 0.02  # blobs that come within this time share a commit; answers do not wait for it
_ABSENT = (BlobNotFound, PullBroke, BlobDamaged)  # the silence of upstreams is a miss here

_log = structlog.get_logger(__name__)


class _Wanted(NamedTuple):
    """What makes two requests share an answer."""

    digest: Digest
    only: str | None
    passed: hops.Hops


@dataclass
class _Group:
    """Blobs of one upstream that become durable together."""

    blobs: dict[Digest, bytes]
    budgeted_bytes: int = 0


class SmallPulls:
    """read_small over upstreams, into a local store."""

    def __init__(
        self,
        local: LocalStore,
        upstreams: Sequence[Upstream],
        clock: Clock,
        budget: MemoryBudget,
        purged: Purged = nothing_purged,
    ) -> None:
        """budget: for blobs that are answered before they are stored.

        purged: tells which blobs were purged here; upstreams are not asked for those.
        """
        self._local = local
        self._purged = purged
        self._upstreams = upstreams
        self._clock = clock
        self._budget = budget
        self._unkept: dict[Digest, bytes] = {}
        self._groups: dict[str, _Group] = {}  # by the name of the upstream that sent them
        self._keeping: asyncio.Task[None] | None = None
        self._round_ended = asyncio.Event()  # set when what was gathered is stored; then a new one
        self._waiting: dict[_Wanted, asyncio.Future[bytes | None]] = {}
        self._saved: Counter[_Wanted] = Counter()  # reads that wait for another request's answer
        self._background = Background()
        self._arrivals = Arrivals(local, clock)
        self.joined = 0
        self.kept = 0  # batches stored; a look before this changed may have missed a blob

    def __repr__(self) -> str:
        return f"<SmallPulls {len(self._waiting)} under way, {len(self._unkept)} not kept yet>"

    async def read(
        self,
        digests: Sequence[Digest],
        only: Upstream | None = None,
        *,
        looked_at: int | None = None,
    ) -> dict[Digest, bytes]:
        """Return the bytes of the blobs that an upstream has, verified; they are stored soon.

        An upstream's silence is a miss here. Blobs that another write brings here in the meantime
        are returned, too.

        only: ask no other upstream. looked_at: the value of kept before the caller looked in
        storage; None: look again.

        Raises what this node's own storage raised, for all requests that wait for the same blobs.
        """
        name, passed = only.name if only is not None else None, hops.current()
        found: dict[Digest, bytes] = {}
        mine: list[_Wanted] = []
        waiting: dict[Digest, asyncio.Future[bytes | None]] = {}
        loop = asyncio.get_running_loop()
        purged = await self._purged(digests)
        # Clients repeat digests in one call.
        for digest in dict.fromkeys(digests):
            if digest in purged:
                continue
            if (unkept := self._unkept.get(digest)) is not None:
                found[digest] = unkept
                continue
            wanted = _Wanted(digest, name, passed)
            future = self._waiting.get(wanted)
            if future is None:
                future = self._waiting[wanted] = loop.create_future()
                mine.append(wanted)
            else:
                self.joined += 1
                self._saved[wanted] += 1
            waiting[digest] = future
        if mine:
            upstreams = [only] if only is not None else list(self._upstreams)
            # The pull belongs to the node: it goes on when this caller leaves.
            # A batch that was stored since the caller looked may have them already.
            pull = self._pull(mine, upstreams, look_again=looked_at != self.kept)
            self._background.start(pull, "pull small blobs")
        for digest, future in waiting.items():
            # Most are answered with the first. wait() leaves them to others if it is cancelled.
            if not future.done():
                await asyncio.wait([future])
            if (data := future.result()) is not None:
                found[digest] = data
        return found

    async def wait_kept(self) -> None:
        """Wait until all blobs answered so far are stored, or cannot be."""
        # Two rounds have all of them, the one that stores and the one that gathers. Clients that
        # pull all the time keep the task going for hours, so its end is not waited for.
        for _ in range(2):
            if self._keeping is None or self._keeping.done():
                return
            await self._round_ended.wait()

    async def close(self) -> None:
        """Stop all pulls under way."""
        await self._arrivals.close()
        await self._background.close()

    async def _pull(
        self, asked: list[_Wanted], upstreams: list[Upstream], *, look_again: bool
    ) -> None:
        """Answer each with its bytes, None, or the error of this node's own storage."""
        digests = [each.digest for each in asked]
        question = SmallQuestion(digests, upstreams, self._clock, self._keep_soon)
        # What the waiting reads are told if this task is cancelled.
        trouble: FederationError | None = SourceUnavailable("pull", "it was stopped")
        try:
            if look_again:  # some may have come between the caller's look and this call
                question.found |= await self._held(digests)
            if len(question.found) < len(digests):
                with self._arrivals.watching(digests, partial(self._on_arrival, asked)):
                    await question.ask()
            trouble = None
        except FederationError as error:
            trouble = error
        finally:
            for each in asked:
                saved = self._saved.pop(each, 0) if self._saved else 0
                if saved and each.digest in question.senders:
                    question.senders[each.digest].note_saved(saved)
                _answer(self._waiting.pop(each), question.found.get(each.digest), trouble)

    async def _held(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        here = await self._local.read_small(digests)
        answers = zip(digests, here, strict=True)
        return {digest: data for digest, data in answers if data is not None}

    async def _on_arrival(self, asked: list[_Wanted], digests: set[Digest]) -> None:
        """Another write brought some of the blobs here: answer with those."""
        # The upstream may have answered some of them meanwhile.
        waiting = [
            each for each in asked if each.digest in digests and not self._waiting[each].done()
        ]
        if not waiting:
            return
        try:
            found = await self._held([each.digest for each in waiting])
        except FederationError:
            return  # the upstream may still answer
        for each in waiting:
            if each in self._waiting and (data := found.get(each.digest)) is not None:
                _answer(self._waiting[each], data)

    async def _keep_soon(self, found: dict[Digest, bytes], upstream: Upstream) -> None:
        """Store the blobs soon, or at once if the memory budget is used up."""
        if not found:
            return
        size_bytes = sum(len(data) for data in found.values())
        # Before anything is stored: from here on a request is answered from memory.
        self._unkept |= found
        # No memory to hold answered blobs in, so this answer waits for the disk.
        if not self._budget.try_acquire(size_bytes):
            await self._keep(found, upstream.name, 0)
            return
        group = self._groups.setdefault(upstream.name, _Group({}))
        group.blobs.update(found)
        group.budgeted_bytes += size_bytes
        if self._keeping is None or self._keeping.done():
            self._keeping = self._background.start(self._keep_groups(), "keep small blobs")

    async def _keep_groups(self) -> None:
        try:
            while self._groups:
                # One commit for many answers: each would cost a flush of the disk.
                await self._clock.sleep(_GATHER_S)
                groups, self._groups = self._groups, {}
                for name, group in groups.items():
                    await self._keep(group.blobs, name, group.budgeted_bytes)
                self._end_round()
        finally:
            self._end_round()  # also if it is cancelled: nothing is stored any more

    def _end_round(self) -> None:
        ended, self._round_ended = self._round_ended, asyncio.Event()
        ended.set()

    async def _keep(self, found: dict[Digest, bytes], origin: str, budgeted_bytes: int) -> None:
        """Store the blobs. A failure is only logged: the requests have their bytes."""
        came = Provenance(Source.UPSTREAM, origin=origin)
        try:
            refusals = await self._local.write_small(list(found.items()), provenance=came)
        except FederationError as error:
            refusals = [error]
        finally:
            # Before they leave memory: a request that finds them nowhere looks into storage again.
            self.kept += 1
            self._budget.release(budgeted_bytes)
            for digest in found:
                self._unkept.pop(digest, None)
        if any(refusals):
            _log.warning("pulled_blobs_not_kept", reason=str(next(filter(None, refusals))))


def _answer(
    future: asyncio.Future[bytes | None],
    data: bytes | None,
    trouble: FederationError | None = None,
) -> None:
    """Answer all that wait. A blob not found is a miss only if this node is not at fault."""
    if future.done():
        return
    if data is None and trouble is not None:
        future.set_exception(trouble)
        future.exception()  # marks it as retrieved: all waiting requests may have left
    else:
        future.set_result(data)


async def read_whole(
    local: LocalStore,
    pulls: Pulls,
    small: SmallPulls,
    digests: Sequence[Digest],
    only: Upstream | None = None,
    *,
    looked_at: int | None = None,
) -> dict[Digest, bytes]:
    """Return the blobs that upstreams have; only: small ones from this upstream alone.

    looked_at: see SmallPulls.read. Larger blobs that cannot be stored are returned all the same.
    Raises what this node's own storage raised.
    """
    larger = [digest for digest in digests if digest.size_bytes > SMALL_PULL_BYTES]
    if not larger:
        return await small.read(digests, only, looked_at=looked_at)
    rest = [digest for digest in digests if digest.size_bytes <= SMALL_PULL_BYTES]
    # Side by side: a large blob must not hold up the small ones.
    came, found = await asyncio.gather(
        asyncio.gather(*(_bring(pulls, digest) for digest in larger)), small.read(rest, only)
    )
    kept = [digest for digest, error in zip(larger, came, strict=True) if error is None]
    for digest, data in zip(kept, await local.read_small(kept), strict=True):
        if data is not None:
            found[digest] = data
    refused = [d for d, error in zip(larger, came, strict=True) if not isinstance(error, _ABSENT)]
    # They came and could not be stored, as on a full disk. They fit into memory, so ask once more.
    if unkept := [digest for digest in refused if digest not in found]:
        found |= await small.read(unkept, only)
    return found


async def _bring(pulls: Pulls, digest: Digest) -> FederationError | None:
    """Pull a blob; return why it is not here."""
    try:
        await pulls.fetch(digest)
    except FederationError as error:
        return error
    return None
