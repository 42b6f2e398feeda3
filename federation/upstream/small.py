"""Batches of small absent blobs, taken from upstreams in order and kept.

Each blob is asked for once at a time: whoever asks the same upstreams meanwhile waits for the same
answer. Requests that have passed different nodes do not share one: two nodes that ask each other
would otherwise wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from typing import NamedTuple

import structlog

from federation import hops
from federation.digest import Digest
from federation.errors import FederationError, SourceUnavailable
from federation.store import LocalStore, Provenance, Source
from federation.tasks import Background
from federation.upstream.hedge import Hedge
from federation.upstream.source import Upstream

_log = structlog.get_logger(__name__)


class _Asked(NamedTuple):
    """What makes two questions the same."""

    digest: Digest
    only: str | None
    passed: hops.Hops


class SmallPulls:
    """read_small over upstreams, into a local store."""

    def __init__(self, local: LocalStore, upstreams: Sequence[Upstream]) -> None:
        self._local = local
        self._upstreams = upstreams
        self._waiting: dict[_Asked, asyncio.Future[bytes | None]] = {}
        self._saved: Counter[_Asked] = Counter()  # reads that wait for somebody else's
        self._background = Background()
        self.joined = 0

    def __repr__(self) -> str:
        return f"<SmallPulls {len(self._waiting)} under way>"

    async def read(
        self, digests: Sequence[Digest], only: Upstream | None = None
    ) -> dict[Digest, bytes]:
        """Return the bytes of those that an upstream (or just one) has; verified and kept here.

        An upstream that does not answer lacks them: its silence is a miss here.
        """
        name, passed = only.name if only is not None else None, hops.current()
        asked = [_Asked(digest, name, passed) for digest in dict.fromkeys(digests)]
        mine = [each for each in asked if each not in self._waiting]
        theirs = {each: self._waiting[each] for each in asked if each in self._waiting}
        self.joined += len(theirs)
        self._saved.update(theirs.keys())
        found: dict[Digest, bytes] = {}
        if mine:
            loop = asyncio.get_running_loop()
            self._waiting.update((each, loop.create_future()) for each in mine)
            upstreams = [only] if only is not None else list(self._upstreams)
            # The pull belongs to the node: it goes on when this caller leaves.
            work = self._background.start(self._pull(mine, upstreams), "pull small blobs")
            found = await asyncio.shield(work)
        for each, future in theirs.items():
            data = await asyncio.shield(future)
            if data is not None:
                found[each.digest] = data
        return found

    async def close(self) -> None:
        """Stop what is under way."""
        await self._background.close()

    async def _pull(self, asked: list[_Asked], upstreams: list[Upstream]) -> dict[Digest, bytes]:
        digests = [each.digest for each in asked]
        found: dict[Digest, bytes] = {}
        senders: dict[Digest, Upstream] = {}
        try:
            # Some may have come between the caller's look and its question.
            here = await self._local.read_small(digests)
            found |= {d: data for d, data in zip(digests, here, strict=True) if data is not None}
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
                await self._keep(new, upstream)
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

    async def _keep(self, found: dict[Digest, bytes], upstream: Upstream) -> None:
        """Store what came; a full disk is no reason not to answer."""
        if not found:
            return
        came = Provenance(Source.UPSTREAM, origin=upstream.name)
        try:
            refusals = await self._local.write_small(list(found.items()), provenance=came)
        except FederationError as error:
            refusals = [error]
        if any(refusals):
            _log.warning("pulled_blobs_not_kept", reason=str(next(filter(None, refusals))))
