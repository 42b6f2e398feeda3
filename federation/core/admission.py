"""Admission in bytes: whoever finds no room waits in turn, caller by caller.

Pure bookkeeping but for the waiting itself, so any transport can ask it before it takes bytes off
the wire or puts them there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from federation.core.fair_share import FairShare, ShareVerdict


class _Waiter(NamedTuple):
    size_bytes: int
    turn: asyncio.Future[None]


class Admission:
    """Bytes that all callers hold together, divided as FairShare says."""

    def __init__(
        self,
        total_bytes: Callable[[], int],
        *,
        each: Callable[[], int] | None = None,
        counted: Callable[[int], None] | None = None,
        held_back: Callable[[str], None] | None = None,
        first_is_free: bool = False,
    ) -> None:
        """Take the bound, which may change.

        each: the most of one caller, as for FairShare; so first_is_free.
        counted: told by how much what is held grows (or shrinks, below 0).
        held_back: told of each caller that has to wait.
        """
        self._share = FairShare(total_bytes, each, first_is_free=first_is_free)
        self._counted = counted
        self._held_back = held_back
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # whose turn it is first

    def __repr__(self) -> str:
        return f"<Admission {self._share!r}, {self.waiting} wait>"

    @property
    def used_bytes(self) -> int:
        """What is held now."""
        return self._share.used

    @property
    def total_bytes(self) -> int:
        """What may be held."""
        return self._share.total

    def used_by(self, caller: str) -> int:
        """Return what this caller holds now, in bytes."""
        return self._share.used_by(caller)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def may_acquire(self, caller: str, size_bytes: int) -> bool:
        """Return whether there is room for this much, and this caller waits for none."""
        # A caller's requests do not pass each other. Those of others may: they have other shares.
        if self._waiting and caller in self._waiting:
            return False
        return self._share.judge(caller, size_bytes) is ShareVerdict.GRANTED

    def try_acquire(self, caller: str, size_bytes: int) -> bool:
        """Take this much if may_acquire() says so; it has to be released."""
        if not self.may_acquire(caller, size_bytes):
            return False
        self.adjust(caller, size_bytes)
        return True

    async def acquire(self, caller: str, size_bytes: int) -> None:
        """Take this much, in turn; it has to be released."""
        if self.try_acquire(caller, size_bytes):
            return
        if self._held_back is not None:
            self._held_back(caller)
        waiter = _Waiter(size_bytes, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(caller, deque()).append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            # Awaiting a future cancels it with the task, unless _serve() was faster.
            if waiter.turn.cancelled():
                self._forget(caller, waiter)
            else:  # it came at the very moment of leaving
                self.release(caller, size_bytes)
            raise

    @asynccontextmanager
    async def hold(self, caller: str, size_bytes: int) -> AsyncIterator[None]:
        """Hold this much inside the block.

        Inside, nobody may wait for another hold of the same admission, or for anything that does:
        both would wait for ever.
        """
        await self.acquire(caller, size_bytes)
        try:
            yield
        finally:
            self.release(caller, size_bytes)

    def adjust(self, caller: str, by_bytes: int) -> None:
        """Count more or less for what is held, when that turns out to be of another size."""
        self._share.add(caller, by_bytes)
        if self._counted is not None:
            self._counted(by_bytes)
        # Only less makes room. What is counted more may exceed the bound: it is held already.
        if by_bytes < 0 and self._waiting:
            self._serve()

    def release(self, caller: str, size_bytes: int) -> None:
        """Return what was taken."""
        self.adjust(caller, -size_bytes)

    def _serve(self) -> None:
        """Let in who fits now: one of each caller in turn."""
        granted = True
        while granted:
            granted = False
            # One of each per round: a caller with a thousand waiters lets others in between.
            for caller in list(self._waiting):
                granted |= self._serve_one(caller)

    def _serve_one(self, caller: str) -> bool:
        queue = self._waiting[caller]
        size_bytes, turn = queue[0]
        if self._share.judge(caller, size_bytes) is not ShareVerdict.GRANTED:
            return False
        queue.popleft()
        if queue:
            self._waiting.move_to_end(caller)
        else:
            del self._waiting[caller]
        # A waiter that has just left takes nothing, and the next one may go.
        if not turn.done():
            self._share.add(caller, size_bytes)
            if self._counted is not None:
                self._counted(size_bytes)
            turn.set_result(None)
        return True

    def _forget(self, caller: str, waiter: _Waiter) -> None:
        queue = self._waiting.get(caller)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiting[caller]
        self._serve()
