"""A semaphore, first come first served: one waiter is woken for each slot, and any may leave."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class FairSlots:
    """A bounded number of slots. The bound may change at any time; thousands may wait.

    Were all of them woken whenever a slot is free, to find that one may go, that alone would keep
    the event loop busy for a third of a second.
    """

    def __init__(self, size: Callable[[], int]) -> None:
        """size: how many there are now."""
        self._size = size
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()  # in their order
        self.taken = 0

    def __repr__(self) -> str:
        return f"<FairSlots {self.taken} taken, {self.waiting} wait>"

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot."""
        await self.acquire()
        try:
            yield
        finally:
            self.release()

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody waits for it; it has to be given back."""
        # Whoever waits goes first, or a busy caller would take every slot that is given back.
        if self._waiting or self.taken >= self._size():
            return False
        self.taken += 1
        return True

    async def acquire(self) -> None:
        """Take a slot, in turn; it has to be given back."""
        if self.try_acquire():
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[mine] = None
        try:
            await mine
        except asyncio.CancelledError:
            self._waiting.pop(mine, None)
            if not mine.cancelled():
                self.release()  # handed a slot at the very moment of leaving
            raise

    def release(self) -> None:
        """Hand a slot on to whoever has waited for longest."""
        self.taken -= 1
        # Not one alone: the size may have grown. If it has shrunk, nobody is woken.
        while self._waiting and self.taken < self._size():
            first, _ = self._waiting.popitem(last=False)
            if not first.done():
                self.taken += 1
                first.set_result(None)
