"""Asks upstreams one question in order, without waiting forever for a silent one.

The next upstream is asked when those before it have answered without success, or have been silent
for their hedge delay. Answers are taken as they come. Being overtaken counts as a failure: an
upstream that hangs would otherwise cost every question its hedge delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from federation.upstream.upstream import Upstream

_T = TypeVar("_T")


class Hedge(Generic[_T]):
    """One question. Close the iterator of answers() as soon as the answer is known."""

    def __init__(
        self, upstreams: Sequence[Upstream], ask: Callable[[Upstream], Awaitable[_T]]
    ) -> None:
        """ask: puts the question to one upstream, and returns a failure as an answer."""
        self._waiting = list(upstreams)
        self._ask = ask
        self._running: dict[asyncio.Task[_T], Upstream] = {}
        self._late: set[str] = set()

    async def answers(self) -> AsyncGenerator[tuple[Upstream, _T], None]:
        """Yield each answer as it comes. Raises what ask raises."""
        try:
            while self._waiting or self._running:
                # Also true at the start, when nobody has been asked yet.
                if self._waiting and self._late.issuperset(self._names()):
                    self._start(self._waiting.pop(0))
                for task in await self._next():
                    upstream = self._running.pop(task)
                    self._late.discard(upstream.name)
                    yield upstream, task.result()
        finally:
            await self._stop()

    def _names(self) -> list[str]:
        return [upstream.name for upstream in self._running.values()]

    def _start(self, upstream: Upstream) -> None:
        task = asyncio.get_running_loop().create_task(
            self._put(upstream), name=f"ask {upstream.name}"
        )
        self._running[task] = upstream

    async def _put(self, upstream: Upstream) -> _T:
        return await self._ask(upstream)

    async def _next(self) -> list[asyncio.Task[_T]]:
        """Return the tasks that have answered; none: it is time to ask another upstream."""
        patience_s = None
        if self._waiting:
            # Of the upstream asked last: those before it are late, and must not shorten its time.
            patience_s = min(
                upstream.hedge_delay_s
                for upstream in self._running.values()
                if upstream.name not in self._late
            )
        await asyncio.wait(self._running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        done = [task for task in self._running if task.done()]
        if not done:
            self._late.update(self._names())
        return done

    async def _stop(self) -> None:
        for task, upstream in self._running.items():
            # An answer of this very moment is not late any more.
            if upstream.name in self._late and not task.done():
                upstream.note_overtaken()
            task.cancel()
        # A cancelled call holds its slot at the remote until it has ended.
        await asyncio.gather(*self._running, return_exceptions=True)
