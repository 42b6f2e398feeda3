"""Makes races of tests likely: `FEDERATION_TEST_SHAKING=SEED pytest`, with any text as the seed.

A thread begins a job late, or has done it before the event loop takes its next step. What has come
through a socket is noticed late, or together with all that came in the meantime. Both happen on a
machine that is busier, or faster, than the one on which a test was written. Nodes that a test
starts are shaken as well, unless they import the program themselves.

With the same seed each thread of a test draws the same pauses again.
"""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from federation.core.clock import SystemClock
from federation.core.worker_threads import WorkerThreads
from federation.storage.catalogue.writer import Writer
from tests.support.warm import SHAKING

_PAUSE_MAX_S: Final = 0.02
_SHARE: Final = 0.1  # of jobs of threads and of sockets with something to read
_TURNS_SHARE: Final = 0.02  # of the turns of an event loop, of which there are many more

_clock = SystemClock()


class _Chance(threading.local):
    """What happens to whom, drawn by each thread from the seed and its name."""

    name = ""  # of the test

    def __init__(self) -> None:  # called in each thread
        self.begin()

    def begin(self) -> None:
        """Draw for the test that is named now."""
        named = f"{os.environ.get(SHAKING)} {_Chance.name} {threading.current_thread().name}"
        self._random = random.Random(named)

    def pause_s(self, share: float = _SHARE) -> float:
        """Return 0 for most, and up to _PAUSE_MAX_S for this share of them."""
        return self._random.uniform(0, _PAUSE_MAX_S) if self._random.random() < share else 0.0

    def pause(self, share: float = _SHARE) -> None:
        if pause_s := self.pause_s(share):
            time.sleep(pause_s)


_chance = _Chance()


class ShakingSelector(selectors.DefaultSelector):
    """Tells of some sockets late, and sometimes of nothing for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._withheld: dict[int, float] = {}  # descriptor -> until when, monotonic

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors.BaseSelector: it may return nothing before the timeout, as there."""
        _chance.pause(_TURNS_SHARE)
        found = super().select(timeout)
        now_s = _clock.monotonic_s()
        told = [each for each in found if not self._is_withheld(each[0].fd, now_s)]
        if found and not told and timeout != 0:
            until_s = min(self._withheld[key.fd] for key, _ in found)
            patience_s = until_s - now_s if timeout is None else min(timeout, until_s - now_s)
            time.sleep(max(0.0, patience_s))
        return told

    def _is_withheld(self, fd: int, now_s: float) -> bool:
        until_s = self._withheld.get(fd)
        if until_s is None:
            pause_s = _chance.pause_s()
            if pause_s:
                self._withheld[fd] = now_s + pause_s
            return bool(pause_s)
        if until_s > now_s:
            return True
        del self._withheld[fd]
        return False

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._withheld.pop(key.fd, None)
        return key


def _shaken(hand_over: Callable[[Callable[..., object]], Any], work: Callable[..., Any]) -> Any:
    """Hand work over to a thread, which begins late, or ends before this one goes on."""
    ended = threading.Event()

    def late(*args: Any) -> Any:
        _chance.pause()
        try:
            return work(*args)
        finally:
            del args  # a traceback that ends in here must not keep them
            ended.set()

    handed = hand_over(late)
    if pause_s := _chance.pause_s():
        ended.wait(pause_s)
    return handed


def install() -> None:
    """Shake all event loops and threads that this process makes from now on."""
    run_in_executor = asyncio.base_events.BaseEventLoop.run_in_executor
    call_soon_threadsafe = asyncio.base_events.BaseEventLoop.call_soon_threadsafe
    put, take = WorkerThreads.put, Writer._take

    @wraps(run_in_executor)
    def executed(self: Any, executor: Any, func: Any, *args: Any) -> Any:
        return _shaken(lambda late: run_in_executor(self, executor, late, *args), func)

    @wraps(call_soon_threadsafe)
    def called(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        if threading.get_ident() != self._thread_id:
            _chance.pause()
        return call_soon_threadsafe(self, callback, *args, context=context)

    @wraps(put)
    def given(self: WorkerThreads, work: Callable[..., object], *args: Any) -> None:
        _shaken(lambda late: put(self, late, *args), work)

    @wraps(take)
    def taken(self: Writer) -> Any:
        batch = take(self)
        _chance.pause()
        return batch

    for owner, name, shaking in (
        (selectors, "DefaultSelector", ShakingSelector),
        (asyncio.base_events.BaseEventLoop, "run_in_executor", executed),
        (asyncio.base_events.BaseEventLoop, "call_soon_threadsafe", called),
        (WorkerThreads, "put", given),
        (Writer, "_take", taken),
    ):
        setattr(owner, name, shaking)


def pytest_runtest_logstart(nodeid: str) -> None:
    """Begin anew for each test: this thread, and all that are started in it."""
    _Chance.name = nodeid
    _chance.begin()
