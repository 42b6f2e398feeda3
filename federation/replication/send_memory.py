"""How many bytes of objects all peers together may hold here while they are sent.

A peer may hold as much as is still free: one that is frozen takes half of all, two leave a third to
the others, and none is left without. Whoever holds nothing gets what it asks for, however large, so
that the largest object can be sent; so beyond the bound there is at most one object for each peer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

ENTRIES_BYTES = 32 * 2**20
CALLS_BYTES = 64 * 2**20


class BoundedMemory:
    """A bound in bytes. Used from one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._waiting: deque[MemoryShare] = deque()  # shares with somebody who waits, in turn

    def __repr__(self) -> str:
        return f"<BoundedMemory {self.held_bytes} of {self.max_bytes}>"

    def share(self) -> MemoryShare:
        """Return one more peer's part."""
        return MemoryShare(self)

    def wait_in_turn(self, share: MemoryShare) -> None:
        """Note that somebody waits there."""
        self._waiting.append(share)

    def hand_out(self) -> None:
        """Let those go on who have room by now, the first of each share, share after share."""
        for _ in range(len(self._waiting)):
            share = self._waiting.popleft()
            while share.grant_first():
                pass
            if share.waits:
                self._waiting.append(share)


class MemoryShare:
    """What one peer holds of it."""

    def __init__(self, memory: BoundedMemory) -> None:
        self._memory = memory
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<MemoryShare {self.held_bytes} of {self._memory!r}>"

    @property
    def waits(self) -> bool:
        """Whether anybody waits here."""
        return bool(self._waiting)

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold so many bytes within; first come, first served among those of one peer.

        Nobody may wait for another hold of the same memory within, or for anything that does.
        """
        await self._take(size_bytes)
        try:
            yield
        finally:
            self._give_back(size_bytes)

    async def _take(self, size_bytes: int) -> None:
        if not self._waiting and self._has_room(size_bytes):
            self._add(size_bytes)
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._memory.wait_in_turn(self)
        self._waiting.append((size_bytes, mine))
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                self._give_back(size_bytes)  # granted at the very moment of leaving
            else:
                self._memory.hand_out()  # it may have stood in the way of smaller ones
            raise

    def grant_first(self) -> bool:
        """Let the first who waits go on, if there is room; whoever has left is passed."""
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        if not self._waiting or not self._has_room(self._waiting[0][0]):
            return False
        size_bytes, first = self._waiting.popleft()
        self._add(size_bytes)
        first.set_result(None)
        return True

    def _has_room(self, size_bytes: int) -> bool:
        free_bytes = self._memory.max_bytes - self._memory.held_bytes
        return not self.held_bytes or self.held_bytes + size_bytes <= free_bytes

    def _add(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self._memory.held_bytes += size_bytes

    def _give_back(self, size_bytes: int) -> None:
        self._add(-size_bytes)
        self._memory.hand_out()


class SendMemory:
    """One for all peers: what entries take while they are brought along, and what calls carry.

    Apart from each other, since an entry waits for calls that bring what it names.
    """

    def __init__(self, entries_bytes: int = ENTRIES_BYTES, calls_bytes: int = CALLS_BYTES) -> None:
        self.entries = BoundedMemory(entries_bytes)
        self.calls = BoundedMemory(calls_bytes)

    def __repr__(self) -> str:
        return f"<SendMemory {self.entries!r} {self.calls!r}>"
