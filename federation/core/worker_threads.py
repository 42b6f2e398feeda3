"""A bounded number of threads for jobs that would block the event loop.

ThreadPoolExecutor makes a future with a condition for each job, and wakes the thread that has been
idle for longest. Here a job is a function and its arguments, and the thread that was busy last is
woken: few jobs at once keep few threads busy, whose caches and connections are warm.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")
_Job = tuple[Callable[..., object], tuple[Any, ...]]


class WorkerThreads:
    """The threads. put() may be called from any thread.

    One idle thread is woken at a time, and wakes the next one itself if there is more to do. So
    many short jobs are done by the threads that are awake already.
    """

    def __init__(self, name: str, most: int) -> None:
        """most: how many threads; each is started when it is needed."""
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[threading.Lock] = []  # releasing one wakes its thread
        self._jobs: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._is_waking = False  # a thread was woken or started, and has not looked yet
        self._closing = False

    def __repr__(self) -> str:
        busy = len(self._threads) - len(self._idle)
        return f"<WorkerThreads {self._name}: {busy} busy, {len(self._jobs)} jobs wait>"

    def put(self, work: Callable[..., object], *args: Any) -> None:
        """Have a thread call work, which must not raise.

        Raises RuntimeError after close(), and if the system has not even one thread for it.
        """
        with self._lock:
            if self._closing:
                raise RuntimeError(f"the threads of {self._name} have ended")
            self._jobs.append((work, args))
            try:
                if not self._is_waking:
                    self._wake_one()
            except RuntimeError:
                self._jobs.pop()
                raise

    async def run(self, work: Callable[..., _T], *args: Any) -> _T:
        """Have a thread call work, and return or raise what it does.

        Cancelling the caller does not stop work that has begun. The thread wakes the event loop
        itself: run_in_executor and its chained futures take a third more time.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()
        self.put(call_for, loop, result, work, args)
        try:
            return await result
        finally:
            del result  # else it, its error and this frame in the traceback would be a cycle

    def _wake_one(self) -> None:
        """Wake the thread that was busy last, or start one, if there is any."""
        if self._idle:
            self._is_waking = True
            self._idle.pop().release()
        elif len(self._threads) < self._most:
            name = f"{self._name}_{len(self._threads)}"
            # A daemon: a process that ends without close() must not wait for it.
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads for this process or user
                if self._threads:
                    return  # those that there are do the job later
                raise
            # Only now: a thread that never runs would never say that it is awake.
            self._threads.append(thread)
            self._is_waking = True

    def _run(self) -> None:
        wake = threading.Lock()
        wake.acquire()
        was_woken = True
        while True:
            with self._lock:
                if was_woken:
                    self._is_waking = was_woken = False
                job = self._jobs.popleft() if self._jobs else None
                if job is not None:
                    # Before this job, which may wait for a disk: the next one must not wait for it.
                    if self._jobs and not self._is_waking:
                        self._wake_one()
                # Only without jobs: close() promises that all that were put are done.
                elif self._closing:
                    return
                else:
                    self._idle.append(wake)
            if job is None:
                wake.acquire()
                was_woken = True
                continue
            work, args = job
            work(*args)
            del job, work, args  # they may hold much, and the next job may come late

    def close(self) -> None:
        """Wait for all jobs, and end the threads. Blocks; twice does no harm."""
        with self._lock:
            self._closing = True
            while self._idle:
                self._idle.pop().release()
        for thread in self._threads:
            thread.join()


def call_for(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[_T],
    work: Callable[..., _T],
    args: tuple[object, ...],
) -> None:
    """Call work in a thread, and give the loop's future what it returns or raises."""
    # Only a hint, as this is another thread: it spares work for a caller that has left.
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
