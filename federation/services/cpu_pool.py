"""Threads for work that would block the event loop: compression, and decoding of huge requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from federation.core.worker_threads import WorkerThreads

INLINE_BYTES = 64 * 1024  # below that the hop to a thread costs more than the work

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Compute:
    """A fixed number of threads, shared by the services."""

    def __init__(self, threads: int) -> None:
        self._threads = WorkerThreads("compute", threads)

    async def run(
        self, work_bytes: int, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Call the function: at once if it has little to do, else in a thread.

        A cancelled caller leaves the thread to finish; what it works on must not be used again.
        """
        if work_bytes <= INLINE_BYTES:
            return function(*args, **kwargs)
        return await self._threads.run(partial(function, *args, **kwargs))

    def close(self) -> None:
        """Wait for what runs and end the threads."""
        self._threads.close()
