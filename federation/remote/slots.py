"""How many calls to one remote run at once, and how many may wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from federation.remote.failures import FailureKind, failure


class Slots:
    """A semaphore with a bounded queue, first come first served."""

    def __init__(self, remote: str, running_max: int, queue_max: int, wait_s: float) -> None:
        self._remote = remote
        self._free = running_max
        self._running_max = running_max
        self._queue_max = queue_max
        self._wait_s = wait_s
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<Slots {self.running} running, {self.queued} queued>"

    @property
    def running(self) -> int:
        """How many are taken."""
        return self._running_max - self._free

    @property
    def queued(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot. Raises RemoteFailed (busy) when too many wait, or one waits too long."""
        await self._take()
        try:
            yield
        finally:
            self._give_back()

    async def _take(self) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        if len(self._waiting) >= self._queue_max:
            raise failure(self._remote, FailureKind.BUSY, f"{self._queue_max} calls wait already")
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            async with asyncio.timeout(self._wait_s):
                await mine
        except BaseException as error:
            self._leave(mine)
            if isinstance(error, TimeoutError):
                detail = f"no other call ended for {self._wait_s:g} s"
                raise failure(self._remote, FailureKind.BUSY, detail) from None
            raise

    def _leave(self, mine: asyncio.Future[None]) -> None:
        if mine.done() and not mine.cancelled():  # handed a slot at the very moment of leaving
            self._give_back()
        elif mine in self._waiting:
            self._waiting.remove(mine)

    def _give_back(self) -> None:
        while self._waiting:
            next_one = self._waiting.popleft()
            if not next_one.done():
                next_one.set_result(None)
                return
        self._free += 1
