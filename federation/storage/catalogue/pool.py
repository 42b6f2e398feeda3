"""A bounded thread pool for work that would block the event loop: SQLite reads, files, hashing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import apsw

from federation.core.worker_threads import WorkerThreads, call_for

_T = TypeVar("_T")


def _settle(future: Future[_T], work: Callable[..., _T], args: tuple[object, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work(*args)
    except BaseException as error:  # noqa: BLE001 - who waits gets it
        future.set_exception(error)
        del future  # else it, the error and this frame in its traceback would be a cycle
    else:
        future.set_result(result)


class Pool:
    """Worker threads, each with its own connection to the catalogue."""

    def __init__(self, name: str, threads: int, connect: Callable[[], apsw.Connection]) -> None:
        self._threads = WorkerThreads(name, threads)
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
        """Run work in a thread and return its result: see WorkerThreads.run."""
        return await self._threads.run(work, *args)

    async def query(self, work: Callable[..., _T], *args: object) -> _T:
        """Run work in a thread as run() does, with the thread's connection before its arguments."""
        return await self.run(lambda: work(self.connection(), *args))

    async def run_or_undo(
        self, work: Callable[..., _T], undo: Callable[[], None], *args: object
    ) -> _T:
        """Run work in a thread; if the caller is cancelled meanwhile, undo it once it has ended."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()
        ended = self.submit(call_for, loop, result, work, args)
        try:
            return await result
        except asyncio.CancelledError:
            ended.add_done_callback(lambda _: undo())
            raise
        finally:
            del result  # as in WorkerThreads.run

    def submit(self, work: Callable[..., _T], *args: object) -> Future[_T]:
        """Run work in a thread without waiting for it."""
        future: Future[_T] = Future()
        self._threads.put(_settle, future, work, args)
        return future

    def close(self) -> None:
        """Wait for the submitted work, then close the connections. Blocks."""
        self._threads.close()
        for connection in self._connections:
            connection.close()
