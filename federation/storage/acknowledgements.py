"""What peers have acknowledged, for uploads that are answered only when some peer has them, too.

The process that replicates hears of it at once; others read how far the records are, which is up to
half a second later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable

from federation.clock import Clock
from federation.ledger import Lane, PeerRecord, PeerState
from federation.storage.bell import Bell

_POLL_S = 0.1


class Acknowledgements:
    """How far each peer is, as far as this process knows. Used from the event loop."""

    def __init__(self, read: Callable[[], Awaitable[list[PeerRecord]]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._heard: dict[str, int] = {}
        self._moved = Bell()
        self._reading: asyncio.Task[list[PeerRecord]] | None = None

    def __repr__(self) -> str:
        return f"<Acknowledgements {self._heard}>"

    def note(self, name: str, lane: Lane, seq: int) -> None:
        """See federation.ledger.Ledger. What waits for a window is not waited for by anybody."""
        if lane is Lane.ALWAYS and seq > self._heard.get(name, 0):
            self._heard[name] = seq
            self._moved.ring()

    def forget(self, name: str) -> None:
        """Believe nothing of this peer any more."""
        self._heard.pop(name, None)

    async def wait(
        self, seq: int, peers: Collection[str], needed: int, timeout_s: float, *, poll: bool
    ) -> bool:
        """Wait until so many of these peers have every row up to seq; False after timeout_s.

        poll: another process may be the one that hears of it.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        while self._count(seq, peers) < needed:
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                return False
            if poll:
                self._take_in(await asyncio.shield(self._records()))
            if self._count(seq, peers) < needed:
                await self._moved.wait(min(left_s, _POLL_S) if poll else left_s)
        return True

    def _count(self, seq: int, peers: Collection[str]) -> int:
        return sum(self._heard.get(name, 0) >= seq for name in peers)

    def _records(self) -> asyncio.Task[list[PeerRecord]]:
        """Read once for all that wait."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read())
        return self._reading

    def _take_in(self, records: Iterable[PeerRecord]) -> None:
        for record in records:
            if record.state is PeerState.FOLLOWING:
                self.note(record.name, record.lane, record.cursor)
