"""Asks upstreams for a batch of small blobs, until all are found or no upstream has more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable, TooBusy
from federation.remote.failures import FailureKind, RemoteFailed
from federation.upstream.hedge import Hedge
from federation.upstream.upstream import Upstream

_PATIENCE_S = 60.0  # with upstreams that answer, but want to be asked later
_WAIT_MIN_S = 0.05

OnFound = Callable[[dict[Digest, bytes], Upstream], Awaitable[None]]


class SmallQuestion:
    """Use once. found may hold some blobs before; senders tells who sent those that ask() found."""

    def __init__(
        self,
        digests: Sequence[Digest],
        upstreams: Sequence[Upstream],
        clock: Clock,
        on_found: OnFound,
    ) -> None:
        """on_found: awaited with the blobs of each upstream that no other had sent before."""
        self.found: dict[Digest, bytes] = {}
        self.senders: dict[Digest, Upstream] = {}
        self._digests = digests
        self._upstreams = upstreams
        self._clock = clock
        self._on_found = on_found
        self._later: list[Upstream] = []  # those that asked for patience
        self._own_limit: RemoteFailed | None = None  # why this node did not ask

    @property
    def lacking(self) -> list[Digest]:
        """The blobs not found yet."""
        return [digest for digest in self._digests if digest not in self.found]

    async def ask(self) -> None:
        """Ask in order; a slow upstream is overtaken by the next.

        Upstreams that asked for patience are asked again if the others lack some of the blobs.

        Raises TooBusy if an upstream was not asked because too many calls wait for it already.
        """
        until_s = self._clock.monotonic_s() + _PATIENCE_S
        asked = list(self._upstreams)
        while asked:
            self._later, self._own_limit = [], None
            async with aclosing(Hedge(asked, self._put).answers()) as answers:
                async for upstream, sent in answers:
                    new = {d: data for d, data in sent.items() if d not in self.found}
                    # Before they count as found: nobody may be answered with what is neither stored
                    # nor remembered.
                    await self._on_found(new, upstream)
                    self.found |= new
                    self.senders.update(dict.fromkeys(new, upstream))
                    if len(self.found) == len(self._digests):
                        return
            asked = await self._after_rest(until_s)
        if self._own_limit is not None:
            raise TooBusy(str(self._own_limit))

    async def _after_rest(self, until_s: float) -> list[Upstream]:
        """Wait for upstreams that asked for patience, and return them."""
        waits = [(wait_s, each) for each in self._later if (wait_s := each.wait_s()) is not None]
        if not waits:
            return []
        wait_s = max(min(each for each, _ in waits), _WAIT_MIN_S)
        if self._clock.monotonic_s() + wait_s >= until_s:
            return []
        await self._clock.sleep(wait_s)
        # All of them, not the first to be ready: one that still rests is left out by may_have().
        return [upstream for _, upstream in waits]

    async def _put(self, upstream: Upstream) -> dict[Digest, bytes]:
        lacking = self.lacking
        wanted = [digest for digest in lacking if upstream.may_have(digest)]
        if not wanted:
            # may_have() does not tell "ask me later" from "it has none of them".
            if any(upstream.wait_s(digest) is not None for digest in lacking):
                self._later.append(upstream)
            return {}
        try:
            answers = await upstream.store.read_small(wanted)
        except SourceUnavailable as error:
            upstream.note(error, wanted)
            if isinstance(error, RemoteFailed):
                self._note(upstream, error)
            return {}
        found = {d: data for d, data in zip(wanted, answers, strict=True) if data is not None}
        upstream.note(None, found)
        # As in UpstreamPool.written: mostly there is nothing to forget.
        if upstream.wrongs or upstream.unreadable:
            for digest in found:
                upstream.note_came(digest)
        upstream.note_absent([digest for digest in wanted if digest not in found])
        return found

    def _note(self, upstream: Upstream, error: RemoteFailed) -> None:
        if error.kind is FailureKind.BUSY:
            self._own_limit = error
        elif error.asks_for_patience:
            self._later.append(upstream)
