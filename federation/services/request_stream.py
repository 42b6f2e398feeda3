"""The messages of a client stream, read ahead within bounds.

A pump task reads them and the handler takes them from a queue: the next message is received while
the handler works on the last one. The pump also makes time limits and cancellation safe: the read
of a transport must not be cancelled, so the pump ends by itself when the call does. An upload of
one message that is here already needs no pump.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from federation.core.errors import FederationError, Stalled
from federation.core.memory_budget import MemoryBudget
from federation.core.tasks import Background
from federation.services.transport import CallEnded

AHEAD_BYTES = 2**20
AHEAD_MESSAGES = 256  # bounds what many tiny messages cost in objects

_AT_ONCE = 2  # reads without a pump; an upload with more messages is read ahead

_pumps = Background()


class RequestStream:
    """The messages of one call, in order."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes | None]],
        budget: MemoryBudget,
        pay: Callable[[int], Awaitable[None]] | None = None,
        gone: Callable[[int], None] | None = None,
        waits_for_room: Callable[[], bool] | None = None,
        may_read: Callable[[], bool] | None = None,
        is_ended: Callable[[], bool] | None = None,
    ) -> None:
        """Take what reads one message.

        pay: waits while a message's size is more than the caller may send. That wait is none of
        the client's: it does not count as a stall.
        gone: called with the size of each message that is released.
        waits_for_room: whether reading waits for room here, which is no stall of the client's.
        may_read: whether read would return without waiting.
        is_ended: whether read would return None.
        """
        self._waits_for_room = waits_for_room
        self._may_read = may_read
        self._is_ended = is_ended
        self._left_at_once = 0 if may_read is None else _AT_ONCE
        self._gone = gone
        self._last_bytes = 0  # of the message that the handler has
        self._pay = pay
        self._read = read
        self._budget = budget
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._budgeted_bytes = 0  # the part of the queue that the budget knows of
        self._ended = False
        self._closed = False
        self._started = False
        self._error: FederationError | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<RequestStream {len(self._queue)} queued, {self._queued_bytes} bytes, {state}>"

    async def next(self, timeout_s: float) -> bytes | None:
        """Return the next message, None after the client's half-close.

        Raises Stalled when none comes for timeout_s, and what interrupt was given.
        """
        if self._gone is not None and self._last_bytes:
            # Asking for the next message says that the handler has done with the last.
            self._gone(self._last_bytes)
            self._last_bytes = 0
        if self._ends_at_once():
            return None
        message = await (self._read_at_once() if self._is_at_once() else self._pumped(timeout_s))
        if message is None:
            return None
        self._last_bytes = len(message)
        if self._pay is not None:
            # Behind everything else: what waits for bandwidth holds no budget of the queue.
            await self._pay(len(message))
        return message

    def _ends_at_once(self) -> bool:
        """Whether nothing is left to be read, and no pump may have a message that is not taken."""
        if self._started or self._error is not None:
            return False
        return self._is_ended is not None and self._is_ended()

    def _is_at_once(self) -> bool:
        if self._started or self._error is not None or not self._left_at_once:
            return False
        return self._may_read is not None and self._may_read()

    async def _read_at_once(self) -> bytes | None:
        self._left_at_once -= 1
        message = await self._next_read()
        if self._error is not None:
            raise self._error
        self._ended = message is None
        return message

    async def _pumped(self, timeout_s: float) -> bytes | None:
        self._start()
        # An error goes before what is queued: an upload that was taken over must not get more.
        while not self._queue or self._error is not None:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived
            except TimeoutError:
                # The client is not slow: this node has no room for its next message.
                if self._waits_for_room is not None and self._waits_for_room():
                    continue
                raise Stalled(f"no message came for {timeout_s:g} s") from None
        message = self._queue.popleft()
        self._queued_bytes -= len(message)
        self._release(min(self._budgeted_bytes, len(message)))
        _wake(self._room)
        return message

    def interrupt(self, error: FederationError) -> None:
        """Have this and every later next() raise the error."""
        self._error = error
        _wake(self._arrived)

    def close(self) -> None:
        """Drop what is queued; called when the handler has ended."""
        self._closed = True
        self._queue.clear()
        self._queued_bytes = 0
        self._release(self._budgeted_bytes)
        _wake(self._room)

    def _release(self, size_bytes: int) -> None:
        self._budgeted_bytes -= size_bytes
        self._budget.release(size_bytes)

    def _start(self) -> None:
        if not self._started and not self._ended:
            self._started = True
            _pumps.start(self._pump(), "request stream")

    async def _pump(self) -> None:
        try:
            while (message := await self._next_read()) is not None and not self._closed:
                within_budget = self._put(message)
                while not self._closed and self._is_full(within_budget):
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        finally:
            self._ended = True
            _wake(self._arrived)

    def _put(self, message: bytes) -> bool:
        within_budget = self._budget.try_acquire(len(message))
        if within_budget:
            self._budgeted_bytes += len(message)
        # Queued without budget, too: it is in memory already.
        self._queue.append(message)
        self._queued_bytes += len(message)
        _wake(self._arrived)
        return within_budget

    def _is_full(self, within_budget: bool) -> bool:
        if not within_budget:  # then one message at a time
            return bool(self._queue)
        return self._queued_bytes >= AHEAD_BYTES or len(self._queue) >= AHEAD_MESSAGES

    async def _next_read(self) -> bytes | None:
        try:
            return await self._read()
        except CallEnded:  # while this read was pending
            return None
        except FederationError as error:
            self.interrupt(error)
            return None


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
