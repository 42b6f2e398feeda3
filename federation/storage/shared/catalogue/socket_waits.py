"""Waits for the socket of a connection to PostgreSQL, as a generator of psycopg asks for it.

Such a generator yields what the socket has to be ready for. psycopg's own way registers the socket,
sets a timer and wakes the task for each wait. Here the socket is registered once, the event loop
itself has the generator go on, and the task is woken when it has ended. Nothing limits the time.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar, cast

from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

_T = TypeVar("_T")


class SocketWaits(Generic[_T]):
    """All waits of one generator. No closures: they would be a cycle, which keeps the results."""

    def __init__(self, gen: PQGen[_T], socket: int) -> None:
        self._gen = gen
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[_T] = self._loop.create_future()
        self._is_watched = False
        self._is_full = False  # it is waited for until the socket takes more

    def __repr__(self) -> str:
        return f"<SocketWaits for {self._socket}, {'watched' if self._is_watched else 'idle'}>"

    async def result(self) -> _T:
        """Return what the generator returns. Raises what it does."""
        try:
            wanted = next(self._gen)
        except StopIteration as ended:
            return cast("_T", ended.value)
        self._loop.add_reader(self._socket, self._go_on, Ready.R)
        self._is_watched = True
        try:
            self._watch(wanted)
            return await self._done
        finally:
            self._stop()

    def _go_on(self, ready: Ready) -> None:
        if self._done.done():  # by cancellation
            return
        try:
            self._watch(self._gen.send(ready))
        except StopIteration as ended:
            self._stop()
            self._done.set_result(ended.value)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._stop()
            self._done.set_exception(error)

    def _watch(self, wanted: Wait) -> None:
        is_full = bool(wanted & Wait.W)
        if is_full and not self._is_full:
            self._loop.add_writer(self._socket, self._go_on, Ready.W)
        elif self._is_full and not is_full:
            self._loop.remove_writer(self._socket)
        self._is_full = is_full

    def _stop(self) -> None:
        """Watch no more, at once: where libpq closed the socket, its number may be another's."""
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
