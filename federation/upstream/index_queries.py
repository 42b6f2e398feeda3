"""Asks upstreams for index entries: in order, each question once at a time, misses remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from federation.core import hops
from federation.core.clock import Clock
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.index import Entry, EntryKey, IndexElsewhere
from federation.core.tasks import Background
from federation.upstream.hedge import Hedge
from federation.upstream.upstream import Upstream


class AskUpstream(Protocol):
    """One question about an index entry that can be put to any upstream."""

    @property
    def keys(self) -> tuple[EntryKey, ...]:
        """The keys asked about, at least one: an answer is under one of them, a miss is of all."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The URIs asked about; empty for an action result."""
        ...

    async def put_to(self, index: IndexElsewhere) -> Entry | None:
        """Ask one upstream. Returns an entry under one of the keys asked for; None: a miss.

        Raises SourceUnavailable.
        """
        ...


# The upstream's name, the keys asked about, and the hops of the request.
_Question = tuple[str, tuple[EntryKey, ...], hops.Hops]


class IndexQueries:
    """The questions of one node to all its upstreams."""

    def __init__(self, upstreams: Sequence[Upstream], clock: Clock) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._asking: dict[_Question, asyncio.Task[Entry | None]] = {}
        self._background = Background()
        self.closed = 0  # questions whose answers are stored by now

    def __repr__(self) -> str:
        return f"<IndexQueries {len(self._asking)} asking>"

    async def close(self) -> None:
        """Stop asking."""
        await self._background.close()

    async def answers(self, question: AskUpstream) -> AsyncGenerator[tuple[Upstream, Entry], None]:
        """Yield the answer of each upstream that has one, in order. The caller closes it at will.

        If one upstream is slow, the next is asked as well.
        """
        begun: list[_Question] = []

        async def ask(upstream: Upstream) -> Entry | None:
            return await self._ask(upstream, question, begun)

        candidates = await self._candidates(question)
        try:
            async with aclosing(Hedge(candidates, ask).answers()) as answers:
                async for upstream, entry in answers:
                    if entry is not None:
                        yield upstream, entry
        finally:
            # Only now: a request between the answer and its being stored joins the question.
            for at in begun:
                self._close(at)

    async def _candidates(self, question: AskUpstream) -> list[Upstream]:
        """Return the upstreams to ask. If all have asked for patience, wait for the first."""
        keys, uris = question.keys, question.names
        suited = [each for each in self._upstreams if each.suits_entry(keys, uris)]
        if able := [each for each in suited if each.is_up]:
            return able
        waits = [wait_s for each in suited if (wait_s := each.wait_s()) is not None]
        if not waits:
            return []
        # Bounded: wait_s() is None for an upstream that wants more patience than a client has.
        await self._clock.sleep(min(waits))
        return [each for each in self._upstreams if each.may_have_entry(keys, uris)]

    async def _ask(
        self, upstream: Upstream, question: AskUpstream, begun: list[_Question]
    ) -> Entry | None:
        """Join the same question under way, or ask. The question belongs to the node.

        Only requests that have passed the same nodes share a question: otherwise two nodes that
        ask each other would wait for each other.
        """
        # All keys: BuildStream asks for a strong name alone, and for it and a weak one together.
        at = (upstream.name, question.keys, hops.current())
        task = self._asking.get(at)
        if task is None:
            task = self._background.start(self._put(upstream, question), "ask upstream")
            self._asking[at] = task
            begun.append(at)
        # Other requests wait for the same answer, so a caller that leaves must not cancel it.
        return await asyncio.shield(task)

    def _close(self, at: _Question) -> None:
        """Let the next request ask anew, once the question under way is answered."""
        self.closed += 1
        task = self._asking[at]
        if task.done():
            del self._asking[at]
        else:  # the request that began it has left
            task.add_done_callback(lambda _: self._asking.pop(at, None))

    async def _put(self, upstream: Upstream, question: AskUpstream) -> Entry | None:
        assert upstream.index is not None
        try:
            entry = await question.put_to(upstream.index)
        except SourceUnavailable as error:
            upstream.note(error)
            return None
        except FederationError as error:  # a malformed answer
            # Silence and no miss: an upstream whose answers cannot be read may well have the entry.
            upstream.note(SourceUnavailable(upstream.name, str(error)))
            return None
        upstream.note(None)
        upstream.note_entry(question.keys, found=entry is not None)
        return entry
