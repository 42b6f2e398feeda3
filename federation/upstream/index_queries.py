"""Asking upstreams for index entries: in order, each question once at a time, misses remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.store import Entry, EntryKey
from federation.core.tasks import Background
from federation.upstream.hedge import Hedge
from federation.upstream.upstream import Upstream


class Named(Protocol):
    """What an upstream answers to a Fetch."""

    @property
    def uri(self) -> str:
        """Which of the URIs asked for it is."""
        ...

    @property
    def digest(self) -> Digest:
        """Of the blob, or of the root directory."""
        ...

    @property
    def expires_at_s(self) -> float | None:
        """Wall clock; None: never."""
        ...


class UpstreamIndex(Protocol):
    """The part of federation.remote.RemoteIndex that is used to pull; a miss is None."""

    async def get_action_result(self, action: Digest) -> bytes | None:
        """Return a serialized ActionResult."""
        ...

    async def fetch_blob(
        self,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None = None,
        function: DigestFunction = DigestFunction.SHA256,
        oldest_content_accepted_s: float | None = None,
    ) -> Named | None:
        """Return the blob behind the first URI that has one."""
        ...

    async def fetch_directory(
        self,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None = None,
        function: DigestFunction = DigestFunction.SHA256,
        oldest_content_accepted_s: float | None = None,
    ) -> Named | None:
        """Return the directory behind the first URI that has one."""
        ...


class AskUpstream(Protocol):
    """One question that can be put to any upstream."""

    @property
    def names(self) -> Sequence[str]:
        """The URIs asked about; empty for an action result."""
        ...

    async def put_to(self, index: UpstreamIndex) -> Entry | None:
        """Ask. Returns an entry under one of the keys asked for. Raises SourceUnavailable."""
        ...


_Question = tuple[str, EntryKey, hops.Hops]  # the upstream's name, what is asked, and for whom


class UpstreamNames:
    """Index look-ups at all upstreams of a node."""

    def __init__(self, upstreams: Sequence[Upstream], clock: Clock) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._asking: dict[_Question, asyncio.Task[Entry | None]] = {}
        self._background = Background()
        self.closed = 0  # questions answered so far, and their answers kept

    def __repr__(self) -> str:
        return f"<UpstreamNames {len(self._asking)} asking>"

    async def close(self) -> None:
        """Stop asking."""
        await self._background.close()

    async def answers(
        self, keys: Sequence[EntryKey], question: AskUpstream
    ) -> AsyncGenerator[tuple[Upstream, Entry], None]:
        """Yield the answer of each upstream that has one, in order; the caller closes it at will.

        The next upstream is asked too where one is slow.
        """

        begun: list[_Question] = []

        async def ask(upstream: Upstream) -> Entry | None:
            return await self._ask(upstream, keys[0], question, begun)

        candidates = await self._candidates(keys, question.names)
        try:
            async with aclosing(Hedge(candidates, ask).answers()) as answers:
                async for upstream, entry in answers:
                    if entry is not None:
                        yield upstream, entry
        finally:
            # Only now: whoever comes between an answer and its being kept joins the question.
            for at in begun:
                self._close(at)

    async def _candidates(self, keys: Sequence[EntryKey], uris: Sequence[str]) -> list[Upstream]:
        """Return who is to be asked; where all only asked for patience, after a wait."""
        able = [each for each in self._upstreams if each.may_name(keys, uris)]
        if able:
            return able
        resting = [each.wait_s() for each in self._upstreams if not each.is_up]
        waits = [wait_s for wait_s in resting if wait_s is not None]
        if not waits:
            return []
        await self._clock.sleep(min(waits))
        return [each for each in self._upstreams if each.may_name(keys, uris)]

    async def _ask(
        self, upstream: Upstream, key: EntryKey, question: AskUpstream, begun: list[_Question]
    ) -> Entry | None:
        """Join the same question under way, or ask. The question belongs to the node.

        Only requests that have passed the same nodes share one: two nodes that ask each other
        would otherwise wait for each other.
        """
        at = (upstream.name, key, hops.current())
        task = self._asking.get(at)
        if task is None:
            task = self._background.start(self._put(upstream, key, question), "ask upstream")
            self._asking[at] = task
            begun.append(at)
        return await asyncio.shield(task)

    def _close(self, at: _Question) -> None:
        """Let the next who asks begin anew, once the question under way is answered."""
        self.closed += 1
        task = self._asking[at]
        if task.done():
            del self._asking[at]
        else:  # whoever began it has left
            task.add_done_callback(lambda _: self._asking.pop(at, None))

    async def _put(self, upstream: Upstream, key: EntryKey, question: AskUpstream) -> Entry | None:
        assert upstream.index is not None
        try:
            entry = await question.put_to(upstream.index)
        except SourceUnavailable as error:
            upstream.note(error)
            return None
        except FederationError as error:  # an answer that makes no sense
            upstream.note(SourceUnavailable(upstream.name, str(error)))
            return None
        upstream.note(None)
        upstream.note_entry(key, found=entry is not None)
        return entry
