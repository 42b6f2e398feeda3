"""How many batches to one peer are under way, and who is next: in order, and one woken for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class BatchSlots:
    """A semaphore whose size may change all the time.

    Thousands may wait. Were all of them woken whenever a batch ends, to find that one may go, that
    alone would keep the event loop busy for a third of a second.
    """

    def __init__(self, size: Callable[[], int]) -> None:
        """size: how many there are now."""
        self._size = size
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.taken = 0

    def __repr__(self) -> str:
        return f"<BatchSlots {self.taken} taken, {len(self._waiting)} wait>"

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot."""
        await self._take()
        try:
            yield
        finally:
            self._give_back()

    async def _take(self) -> None:
        if self.taken < self._size() and not self._waiting:
            self.taken += 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._give_back()  # it came too late for this one
            raise

    def _give_back(self) -> None:
        self.taken -= 1
        while self._waiting and self.taken < self._size():
            first = self._waiting.popleft()
            if not first.done():
                self.taken += 1  # handed over
                first.set_result(None)
