"""A bounded thread pool for work that would block the event loop: SQLite reads, files, hashing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import apsw

_T = TypeVar("_T")


def _run(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[_T],
    work: Callable[..., _T],
    args: tuple[object, ...],
) -> None:
    if future.cancelled():
        return
    try:
        result = work(*args)
    except BaseException as error:  # noqa: BLE001 - the caller gets it
        _tell(loop, _set_exception, future, error)
        del future  # else it, the error and this frame in its traceback would be a cycle
    else:
        _tell(loop, _set_result, future, result)


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *args: object) -> None:
    with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle, *args)


def _set_result(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():  # its caller was cancelled
        future.set_result(result)


def _set_exception(future: asyncio.Future[_T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class Pool:
    """Worker threads, each with its own connection to the catalogue."""

    def __init__(self, name: str, threads: int, connect: Callable[[], apsw.Connection]) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._connect = connect
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []

    def connection(self) -> apsw.Connection:
        """Return the calling worker thread's connection, opening it at first use."""
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._connections.append(connection)
        return connection

    async def run(self, work: Callable[..., _T], *args: object) -> _T:
        """Run work in a thread and return its result.

        Cancelling the caller does not stop work that has begun. The thread wakes the event loop
        itself: run_in_executor and its chained futures take a third more time.
        """
        result, _ = self._start(work, args)
        return await result

    async def run_or_undo(
        self, work: Callable[..., _T], undo: Callable[[], None], *args: object
    ) -> _T:
        """Run work in a thread; if the caller is cancelled meanwhile, undo it once it has ended."""
        result, ended = self._start(work, args)
        try:
            return await result
        except asyncio.CancelledError:
            ended.add_done_callback(lambda _: undo())
            raise

    def _start(
        self, work: Callable[..., _T], args: tuple[object, ...]
    ) -> tuple[asyncio.Future[_T], Future[None]]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()
        return result, self._executor.submit(_run, loop, result, work, args)

    def submit(self, work: Callable[..., _T], *args: object) -> Future[_T]:
        """Run work in a thread without waiting for it."""
        return self._executor.submit(work, *args)

    def close(self) -> None:
        """Wait for the submitted work, then close the connections. Blocks."""
        self._executor.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
