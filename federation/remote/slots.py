"""How many calls to one remote run at once, and how many may wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from federation.core.semaphore import FairSlots
from federation.remote.failures import FailureKind, failure


class Slots:
    """A semaphore with a bounded queue, in which nobody waits for too long."""

    def __init__(self, remote: str, running_max: int, queue_max: int, wait_s: float) -> None:
        self._remote = remote
        self._slots = FairSlots(lambda: running_max)
        self._queue_max = queue_max
        self._wait_s = wait_s

    def __repr__(self) -> str:
        return f"<Slots {self.running} running, {self.queued} queued>"

    @property
    def running(self) -> int:
        """How many are taken."""
        return self._slots.taken

    @property
    def queued(self) -> int:
        """How many wait for one."""
        return self._slots.waiting

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot. Raises RemoteFailed (busy) when too many wait, or one waits too long."""
        if not self._slots.try_take():
            await self._wait()
        try:
            yield
        finally:
            self._slots.give_back()

    async def _wait(self) -> None:
        if self.queued >= self._queue_max:
            raise failure(self._remote, FailureKind.BUSY, f"{self._queue_max} calls wait already")
        try:
            async with asyncio.timeout(self._wait_s):
                await self._slots.take()
        except TimeoutError:
            detail = f"no other call ended for {self._wait_s:g} s"
            raise failure(self._remote, FailureKind.BUSY, detail) from None
