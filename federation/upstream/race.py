"""Getting bytes of one blob from the first upstream that opens it.

Upstreams are tried in order. One that is slow to open is raced by the next after its hedge delay;
whoever opens first sends, and the others are let go before they cost anything. That one was
overtaken counts like a failure of it (see hedge.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, FederationError, SourceUnavailable
from federation.core.store import Chunks
from federation.upstream.upstream import Upstream

Take = Callable[[Upstream, Chunks], Awaitable[None]]


class Race:
    """One race for a blob from one offset on. Use once.

    take is given the winner's chunks and consumes them. lost has how each of the others failed.
    """

    def __init__(
        self, digest: Digest, offset: int, candidates: Sequence[Upstream], take: Take
    ) -> None:
        self._digest = digest
        self._offset = offset
        self._waiting = list(candidates)
        self._take = take
        self._running: dict[asyncio.Task[None], Upstream] = {}
        self._late: set[str] = set()
        self._claimed = asyncio.Event()
        self.winner: Upstream | None = None
        self.lost: list[tuple[Upstream, FederationError]] = []

    async def run(self) -> None:
        """Run to the end of the winner's bytes.

        Raises BlobNotFound or SourceUnavailable when nobody opened (see lost), and what take or
        the winner's chunks raise.
        """
        claimed = asyncio.ensure_future(self._claimed.wait())
        try:
            while self.winner is None:
                self._start_next()
                if not self._running:
                    raise self._nobody()
                done, _ = await asyncio.wait(
                    {*self._running, claimed},
                    timeout=self._patience_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    self._late.update(upstream.name for upstream in self._running.values())
                self._collect()
            await self._finish()
        finally:
            claimed.cancel()
            await self._stop(list(self._running))

    def _start_next(self) -> None:
        if self._waiting and self.winner is None:
            upstream = self._waiting.pop(0)
            work = asyncio.get_running_loop().create_task(
                self._attempt(upstream), name=f"pull from {upstream.name}"
            )
            self._running[work] = upstream

    def _patience_s(self) -> float | None:
        """How long to wait before the next upstream joins the race; None: for good."""
        if not self._waiting or self.winner is not None:
            return None
        return min(upstream.hedge_delay_s for upstream in self._running.values())

    async def _attempt(self, upstream: Upstream) -> None:
        async with upstream.store.open_read(self._digest, offset=self._offset) as chunks:
            if self.winner is not None:
                return
            self.winner = upstream
            self._claimed.set()
            await self._take(upstream, chunks)

    def _collect(self) -> None:
        """Note those that ended without winning."""
        for task, upstream in list(self._running.items()):
            if task.done() and upstream is not self.winner:
                del self._running[task]
                error = task.exception()
                if isinstance(error, FederationError):
                    self.lost.append((upstream, error))
                elif error is not None:
                    raise error

    async def _finish(self) -> None:
        (mine,) = [task for task, upstream in self._running.items() if upstream is self.winner]
        others = {task: up for task, up in self._running.items() if task is not mine}
        for task, upstream in others.items():
            if upstream.name in self._late and not task.done():
                upstream.note_overtaken()
        await self._stop(list(others))
        try:
            await mine
        finally:
            if mine.done():
                del self._running[mine]

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            self._running.pop(task, None)

    def _nobody(self) -> FederationError:
        silent = [error for _, error in self.lost if not isinstance(error, BlobNotFound)]
        if silent:
            return SourceUnavailable("upstreams", str(silent[-1]))
        return BlobNotFound(self._digest)
