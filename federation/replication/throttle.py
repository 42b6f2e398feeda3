"""Running the steps of replication one by one, so that clients are served in between.

A batch takes about a millisecond of the event loop to prepare, and as much when it is answered. Ten
peers that catch up have hundreds of them ready at once; all in one pass of the loop, clients would
wait for as many milliseconds. So each step waits for its turn, of which each pass has one. For the
same reason only a few batches are read at once: clients' calls need the same threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_READS_AT_ONCE = 2
_REST_STEPS = 3
_REST_MAX_S = 0.02


def _nobody_calls() -> bool:
    return False


class LoopThrottle:
    """One for all peers. Used from one event loop."""

    def __init__(self, clients_call: Callable[[], bool] = _nobody_calls) -> None:
        """clients_call: returns whether clients' calls are running now.

        While they are, the loop is left to them after each step for three times as long as the
        step took it.
        """
        self.reading = asyncio.Semaphore(_READS_AT_ONCE)  # held while a batch is read
        self._clients_call = clients_call
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False  # this pass has had its step
        self._granted_s = 0.0

    def __repr__(self) -> str:
        return f"<LoopThrottle {len(self._waiting)} waiting>"

    async def turn(self) -> None:
        """Wait for the turn of this step; steps are taken in the order of the calls."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._take(loop)
            return
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_taken = True
        self._granted_s = loop.time()
        loop.call_soon(self._made, loop)  # in the next pass

    def _made(self, loop: asyncio.AbstractEventLoop) -> None:
        # A rest only where a next step waits: single steps, with nothing to catch up, need none.
        if self._waiting and self._clients_call():
            rest_s = min(_REST_MAX_S, _REST_STEPS * (loop.time() - self._granted_s))
            loop.call_later(rest_s, self._next, loop)
        else:
            self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_taken = False
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # it may have been cancelled
                first.set_result(None)
                self._take(loop)
                return
