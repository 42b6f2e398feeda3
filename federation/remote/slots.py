"""How many calls to one remote run at once, and how many wait.

A remote may take fewer calls at once than this node would make, and shows it only by refusing some
(HTTP/2's REFUSED_STREAM). Then only as many run as it takes, and a quarter more each time
that all of these succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from federation.core.semaphore import FairSlots
from federation.remote.failures import FailureKind, failure


class Slots:
    """A semaphore with a bounded queue and a time limit for waiting."""

    def __init__(self, remote: str, running_max: int, queue_max: int, wait_s: float) -> None:
        self._remote = remote
        self._running_max = running_max
        self._taken_max = running_max  # by the remote, as far as is known
        self._went_well = 0
        self._slots = FairSlots(lambda: self._taken_max)
        self._queue_max = queue_max
        self._wait_s = wait_s

    def __repr__(self) -> str:
        return f"<Slots {self.running} running, {self.queued} queued>"

    @property
    def running(self) -> int:
        """How many calls run."""
        return self._slots.taken

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return self._slots.waiting

    @property
    def running_max(self) -> int:
        """How many may run at once now."""
        return self._taken_max

    def refused(self, served: int | None = None) -> None:
        """Lower the bound: the remote refused a call. served: how many it answered, if known."""
        if served is None:
            # The one that was refused is still counted among those that run.
            served = self.running - 1
        # Never 0: with no call under way nothing would show that it takes more again.
        self._taken_max = max(1, min(self._taken_max, served))
        self._went_well = 0

    def went_well(self) -> None:
        """Count a success; after as many as may run, the bound is raised by a quarter."""
        if self._taken_max >= self._running_max:
            return
        self._went_well += 1
        # Slowly: each step too far costs refused calls.
        if self._went_well >= self._taken_max:
            self._went_well = 0
            self._taken_max = min(self._running_max, self._taken_max + max(1, self._taken_max // 4))

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot. Raises RemoteFailed (busy) when too many wait, or one waits too long."""
        if not self._slots.try_acquire():
            await self._wait()
        try:
            yield
        finally:
            self._slots.release()

    async def _wait(self) -> None:
        # A queue without a bound would only turn refusals into timeouts.
        if self.queued >= self._queue_max:
            raise failure(self._remote, FailureKind.BUSY, f"{self._queue_max} calls wait already")
        try:
            async with asyncio.timeout(self._wait_s):
                await self._slots.acquire()
        except TimeoutError:
            detail = f"no other call ended for {self._wait_s:g} s"
            raise failure(self._remote, FailureKind.BUSY, detail) from None
