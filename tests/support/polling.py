"""Waiting for another process, thread or task, with a deadline and a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from federation.core.clock import SystemClock

_clock = SystemClock()
_PAUSE_MAX_S = 0.2


def pass_time(seconds: float) -> None:
    """Let time pass, where time itself is what a test is about: a lease, an age."""
    time.sleep(seconds)


def wait_until(
    condition: Callable[[], object], what: str, *, timeout_s: float = 60, every_s: float = 0.02
) -> Any:
    """Poll until condition() is true and return its value; fail with `what` at the deadline.

    every_s: the pause between two looks. It is longer where a look takes long, as asking a node
    does: looking should not keep the processor from what is waited for.
    """
    deadline_s = _clock.monotonic_s() + timeout_s
    while True:
        began_s = _clock.monotonic_s()
        value = condition()
        if value:
            return value
        now_s = _clock.monotonic_s()
        if now_s > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(max(every_s, min(_PAUSE_MAX_S, 4 * (now_s - began_s))))


async def until(condition: Callable[[], object], what: str, *, timeout_s: float = 60) -> None:
    """Let the other tasks of this loop run until condition() is true; fail with `what` at last."""
    deadline_s = _clock.monotonic_s() + timeout_s
    while not condition():
        if _clock.monotonic_s() > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(0.01)
