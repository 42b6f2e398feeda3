"""Waking everybody who waits for a change of something that processes share through memory.

Who waits looks for itself when it is woken. What this process changes is told at once; for what
others change somebody has to look again and again, once for all that wait, and only while they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from federation.core.clock import Clock
from federation.core.tasks import Background

POLL_S = 0.04  # how soon a change by another process is noticed; looking costs a memory access


class Notifier:
    """Used from the event loop. look returns something that differs after each change."""

    def __init__(self, look: Callable[[], int], clock: Clock) -> None:
        self._look = look
        self._clock = clock
        self._seen = look()
        self._rung = asyncio.Event()
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Notifier {self._waiting} waiting>"

    def ring(self) -> None:
        """Wake those who wait now."""
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds; False after timeout_s."""
        end_s = self._clock.monotonic_s() + timeout_s
        self._waiting += 1
        try:
            while not condition():
                left_s = end_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return False
                if self._looking is None or self._looking.done():
                    self._looking = self._background.start(self._look_on(), "watch-others")
                await self._next_ring(left_s)
        finally:
            self._waiting -= 1
        return True

    async def _next_ring(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Look no more; who still waits is told nothing."""
        await self._background.close()

    async def _look_on(self) -> None:
        while self._waiting:
            await self._clock.sleep(POLL_S)
            if (found := self._look()) != self._seen:
                self._seen = found
                self.ring()
