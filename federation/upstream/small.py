"""Batches of small absent blobs, taken from upstreams in order and kept.

Each blob is asked for once at a time: whoever asks meanwhile waits for the same answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from federation.digest import Digest
from federation.errors import FederationError, SourceUnavailable
from federation.store import LocalStore, Provenance, Source
from federation.tasks import Background
from federation.upstream.source import Upstream

_log = structlog.get_logger(__name__)


class SmallPulls:
    """read_small over upstreams, into a local store."""

    def __init__(self, local: LocalStore, upstreams: Sequence[Upstream]) -> None:
        self._local = local
        self._upstreams = upstreams
        self._waiting: dict[Digest, asyncio.Future[bytes | None]] = {}
        self._saved: Counter[Digest] = Counter()  # reads that wait for somebody else's
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
        mine = [digest for digest in dict.fromkeys(digests) if digest not in self._waiting]
        theirs = {d: self._waiting[d] for d in digests if d in self._waiting}
        self.joined += len(theirs)
        self._saved.update(theirs.keys())
        found: dict[Digest, bytes] = {}
        if mine:
            loop = asyncio.get_running_loop()
            self._waiting.update((digest, loop.create_future()) for digest in mine)
            upstreams = [only] if only is not None else list(self._upstreams)
            # The pull belongs to the node: it goes on when this caller leaves.
            work = self._background.start(self._pull(mine, upstreams), "pull small blobs")
            found = await asyncio.shield(work)
        for digest, future in theirs.items():
            data = await asyncio.shield(future)
            if data is not None:
                found[digest] = data
        return found

    async def close(self) -> None:
        """Stop what is under way."""
        await self._background.close()

    async def _pull(self, digests: list[Digest], upstreams: list[Upstream]) -> dict[Digest, bytes]:
        found: dict[Digest, bytes] = {}
        senders: dict[Digest, Upstream] = {}
        try:
            for upstream in upstreams:
                wanted = [d for d in digests if d not in found and upstream.may_have(d)]
                if wanted:
                    sent = await self._ask(upstream, wanted)
                    await self._keep(sent, upstream)
                    found |= sent
                    senders.update(dict.fromkeys(sent, upstream))
            return found
        finally:
            for digest in digests:
                saved = self._saved.pop(digest, 0)
                if saved and digest in senders:
                    senders[digest].note_saved(saved)
                future = self._waiting.pop(digest)
                if not future.done():
                    future.set_result(found.get(digest))

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
