"""How far the change log goes, over all processes, and waiting until it goes further.

Each process puts the number of its newest row into shared memory after the commit. Two at once may
leave the older number there; whoever reads the totals next (every process does, each second or so)
puts that right, and until then each at least knows of its own.
"""

from __future__ import annotations

import asyncio

from federation.clock import Clock
from federation.storage.bell import Bell
from federation.storage.shared import Epoch
from federation.tasks import Background

POLL_S = 0.04  # how soon a commit of another process is noticed; looking costs a memory access


class Head:
    """The newest row's number. Used from the event loop."""

    def __init__(self, epoch: Epoch, clock: Clock) -> None:
        self._epoch = epoch
        self._clock = clock
        self._own = 0
        self._told = 0
        self._moved = Bell()
        self._waiting = 0
        self._watch: asyncio.Task[None] | None = None
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Head {self.value}, {self._waiting} waiting>"

    @property
    def value(self) -> int:
        """The newest row that this process knows of."""
        return max(self._own, self._epoch.head)

    def note(self, seq: int) -> None:
        """Take in what a commit made, or what the totals say, and tell everybody."""
        if seq > self._epoch.head:
            self._epoch.set_head(seq)
        if seq > self._own:
            self._own = seq
            self._moved.ring()

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """Wait until there is a row after seq; False after timeout_s."""
        until_s = self._clock.monotonic_s() + timeout_s
        self._waiting += 1
        try:
            while self.value <= seq:
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return False
                if self._watch is None or self._watch.done():
                    self._watch = self._background.start(self._watch_others(), "log-head")
                await self._moved.wait(left_s)
        finally:
            self._waiting -= 1
        return True

    async def close(self) -> None:
        """Look no more; who still waits is told nothing."""
        await self._background.close()

    async def _watch_others(self) -> None:
        """Look for commits of other processes, once for all that wait, while anybody does."""
        while self._waiting:
            await self._clock.sleep(POLL_S)
            if (head := self._epoch.head) != self._told:
                self._told = head
                self._moved.ring()
