"""How far the change log goes, over all processes, and waiting until it goes further.

Each process puts the number of its newest row into shared memory after the commit. Two at once may
leave the older number there; whoever reads the totals next (every process does, each second or so)
puts that right, and until then each at least knows of its own.
"""

from __future__ import annotations

from federation.core.clock import Clock
from federation.storage.shared_memory import Epoch
from federation.storage.watch import Notifier


class LogEnd:
    """The newest row's number. Used from the event loop."""

    def __init__(self, epoch: Epoch, clock: Clock) -> None:
        self._epoch = epoch
        self._own = 0
        self._watch = Notifier(lambda: epoch.head, clock)

    def __repr__(self) -> str:
        return f"<LogEnd {self.value} {self._watch!r}>"

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
            self._watch.ring()

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """Wait until there is a row after seq; False after timeout_s."""
        return await self._watch.until(lambda: self.value > seq, timeout_s)

    async def close(self) -> None:
        """Look no more; who still waits is told nothing."""
        await self._watch.close()
