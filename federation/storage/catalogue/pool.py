"""A bounded thread pool for work that would block the event loop: SQLite reads, files, hashing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import apsw

_T = TypeVar("_T")


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
        """Run work in a thread and return its result. Cancelling the caller does not stop it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    def submit(self, work: Callable[..., _T], *args: object) -> Future[_T]:
        """Run work in a thread without waiting for it."""
        return self._executor.submit(work, *args)

    def close(self) -> None:
        """Wait for the submitted work, then close the connections. Blocks."""
        self._executor.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
