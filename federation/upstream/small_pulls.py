"""Batches of small absent blobs, taken from upstreams in order and kept.

Each blob is asked for once at a time: whoever asks the same upstreams meanwhile waits for the same
answer. Requests that have passed different nodes do not share one: two nodes that ask each other
would otherwise wait for each other. Whoever asked is answered as soon as the bytes are verified;
until they are durable here, they are answered from memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.store import LocalStore, Provenance, Source
from federation.core.tasks import Background
from federation.upstream.hedge import Hedge
from federation.upstream.recent import Budget, NoBound
from federation.upstream.upstream import Upstream

_GATHER_S = 0.02  # what came in this time shares a commit, which is out of the way of answers

_log = structlog.get_logger(__name__)


class _Asked(NamedTuple):
    """What makes two questions the same."""

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
        budget: Budget | None = None,
    ) -> None:
        """budget: of what is answered before it is kept; None: there is no bound."""
        self._local = local
        self._upstreams = upstreams
        self._clock = clock
        self._budget = budget or NoBound()
        self._unkept: dict[Digest, bytes] = {}
        self._groups: dict[str, _Group] = {}  # by the name of the upstream that sent them
        self._keeping: asyncio.Task[None] | None = None
        self._waiting: dict[_Asked, asyncio.Future[bytes | None]] = {}
        self._saved: Counter[_Asked] = Counter()  # reads that wait for somebody else's
        self._background = Background()
        self.joined = 0
        self.kept = 0  # batches; whoever looked for a blob before this changed may find it now

    def __repr__(self) -> str:
        return f"<SmallPulls {len(self._waiting)} under way, {len(self._unkept)} not kept yet>"

    async def read(
        self,
        digests: Sequence[Digest],
        only: Upstream | None = None,
        *,
        looked_at: int | None = None,
    ) -> dict[Digest, bytes]:
        """Return the bytes of those that an upstream (or just one) has; verified, and soon kept.

        An upstream that does not answer lacks them: its silence is a miss here.

        looked_at: what kept was before the caller looked here; None: look again.
        """
        name, passed = only.name if only is not None else None, hops.current()
        found = {digest: self._unkept[digest] for digest in digests if digest in self._unkept}
        rest = dict.fromkeys(digest for digest in digests if digest not in found)
        asked = [_Asked(digest, name, passed) for digest in rest]
        mine = [each for each in asked if each not in self._waiting]
        theirs = {each: self._waiting[each] for each in asked if each in self._waiting}
        self.joined += len(theirs)
        self._saved.update(theirs.keys())
        if mine:
            loop = asyncio.get_running_loop()
            self._waiting.update((each, loop.create_future()) for each in mine)
            upstreams = [only] if only is not None else list(self._upstreams)
            # The pull belongs to the node: it goes on when this caller leaves.
            pull = self._pull(mine, upstreams, look_again=looked_at != self.kept)
            work = self._background.start(pull, "pull small blobs")
            found |= await asyncio.shield(work)
        for each, future in theirs.items():
            data = await asyncio.shield(future)
            if data is not None:
                found[each.digest] = data
        return found

    async def wait_kept(self) -> None:
        """Wait until whatever has been answered so far is kept, or cannot be."""
        if self._keeping is not None:
            await asyncio.wait([self._keeping])

    async def close(self) -> None:
        """Stop what is under way."""
        await self._background.close()

    async def _pull(
        self, asked: list[_Asked], upstreams: list[Upstream], *, look_again: bool
    ) -> dict[Digest, bytes]:
        digests = [each.digest for each in asked]
        found: dict[Digest, bytes] = {}
        senders: dict[Digest, Upstream] = {}
        try:
            if look_again:  # some may have come between the caller's look and its question
                here = await self._local.read_small(digests)
                answers = zip(digests, here, strict=True)
                found |= {digest: data for digest, data in answers if data is not None}
            if len(found) < len(digests):
                await self._collect(digests, upstreams, found, senders)
            return found
        finally:
            for each in asked:
                saved = self._saved.pop(each, 0)
                if saved and each.digest in senders:
                    senders[each.digest].note_saved(saved)
                future = self._waiting.pop(each)
                if not future.done():
                    future.set_result(found.get(each.digest))

    async def _collect(
        self,
        digests: list[Digest],
        upstreams: list[Upstream],
        found: dict[Digest, bytes],
        senders: dict[Digest, Upstream],
    ) -> None:
        """Fill found and senders from the upstreams, in order; one that is slow is overtaken."""

        async def ask(upstream: Upstream) -> dict[Digest, bytes]:
            wanted = [d for d in digests if d not in found and upstream.may_have(d)]
            return await self._ask(upstream, wanted) if wanted else {}

        async with aclosing(Hedge(upstreams, ask).answers()) as answers:
            async for upstream, sent in answers:
                new = {digest: data for digest, data in sent.items() if digest not in found}
                await self._keep_soon(new, upstream)
                found |= new
                senders.update(dict.fromkeys(new, upstream))
                if len(found) == len(digests):
                    return

    async def _ask(self, upstream: Upstream, wanted: list[Digest]) -> dict[Digest, bytes]:
        try:
            answers = await upstream.store.read_small(wanted)
        except SourceUnavailable as error:
            upstream.note(error)
            return {}
        found = {d: data for d, data in zip(wanted, answers, strict=True) if data is not None}
        upstream.note(None, found)
        upstream.note_absent([digest for digest in wanted if digest not in found])
        return found

    async def _keep_soon(self, found: dict[Digest, bytes], upstream: Upstream) -> None:
        """See that what came is stored; where memory for that has run out, wait until it is."""
        if not found:
            return
        size_bytes = sum(len(data) for data in found.values())
        self._unkept |= found
        if not self._budget.try_take(size_bytes):
            await self._keep(found, upstream.name, 0)
            return
        group = self._groups.setdefault(upstream.name, _Group({}))
        group.blobs.update(found)
        group.budgeted_bytes += size_bytes
        if self._keeping is None or self._keeping.done():
            self._keeping = self._background.start(self._keep_groups(), "keep small blobs")

    async def _keep_groups(self) -> None:
        while self._groups:
            await self._clock.sleep(_GATHER_S)
            groups, self._groups = self._groups, {}
            for name, group in groups.items():
                await self._keep(group.blobs, name, group.budgeted_bytes)

    async def _keep(self, found: dict[Digest, bytes], origin: str, budgeted_bytes: int) -> None:
        """Store what came; that it cannot be kept is no failure of who asked."""
        came = Provenance(Source.UPSTREAM, origin=origin)
        try:
            refusals = await self._local.write_small(list(found.items()), provenance=came)
        except FederationError as error:
            refusals = [error]
        finally:
            self.kept += 1
            self._budget.give_back(budgeted_bytes)
            for digest in found:
                self._unkept.pop(digest, None)
        if any(refusals):
            _log.warning("pulled_blobs_not_kept", reason=str(next(filter(None, refusals))))
