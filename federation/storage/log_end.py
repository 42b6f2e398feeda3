"""The number of the newest change log row over all processes, and waiting for newer rows.

Each process writes the number of its newest row to shared memory after the commit. If two do so at
once, the older number may remain. Every process corrects that when it next reads the totals, about
once a second; until then each process at least knows its own rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from federation.core.clock import Clock
from federation.core.tasks import Background
from federation.storage.shared_memory import Epoch

POLL_S = 0.04  # how soon a change by another process is noticed; a poll costs a memory access


class Notifier:
    """Wakes tasks that wait for a change of a value in shared memory.

    A woken task checks its own condition. notify_all announces a change by this process at once;
    one task polls for changes by other processes, only while some task waits. Used from the event
    loop.
    """

    def __init__(self, poll: Callable[[], int], clock: Clock) -> None:
        """poll: returns a number that differs after each change."""
        self._poll = poll
        self._clock = clock
        self._seen = poll()
        self._changed = asyncio.Event()
        self._waiting = 0
        self._polling: asyncio.Task[None] | None = None
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Notifier {self._waiting} waiting>"

    def notify_all(self) -> None:
        """Wake all tasks that wait now."""
        # A new event first: whoever is woken and waits again must wait for the next change.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition is true; return False after timeout_s."""
        end_s = self._clock.monotonic_s() + timeout_s
        self._waiting += 1
        try:
            while not condition():
                left_s = end_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return False
                # Nobody polls while nobody waits: an idle node makes no calls.
                if self._polling is None or self._polling.done():
                    self._polling = self._background.start(self._poll_on(), "watch-others")
                await self._next_change(left_s)
        finally:
            self._waiting -= 1
        return True

    async def _next_change(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Stop polling; tasks that still wait are not woken."""
        await self._background.close()

    async def _poll_on(self) -> None:
        while self._waiting:
            await self._clock.sleep(POLL_S)
            if (found := self._poll()) != self._seen:
                self._seen = found
                self.notify_all()


class LogEnd:
    """The number of the newest change log row. Used from the event loop."""

    def __init__(self, epoch: Epoch, clock: Clock) -> None:
        self._epoch = epoch
        self._own = 0
        self._watch = Notifier(lambda: epoch.head, clock)

    def __repr__(self) -> str:
        return f"<LogEnd {self.value} {self._watch!r}>"

    @property
    def value(self) -> int:
        """The newest row that this process knows of."""
        # Its own rows in any case: shared memory may have lost a race, see above.
        return max(self._own, self._epoch.head)

    def note(self, seq: int) -> None:
        """Record a row of a commit or of the totals, and wake those who wait for it."""
        if seq > self._epoch.head:
            self._epoch.set_head(seq)
        if seq > self._own:
            self._own = seq
            self._watch.notify_all()

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """Wait until there is a row after seq; return False after timeout_s."""
        return await self._watch.until(lambda: self.value > seq, timeout_s)

    async def close(self) -> None:
        """Stop polling; tasks that still wait are not woken."""
        await self._watch.close()
