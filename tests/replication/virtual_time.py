"""An event loop in which time passes only when nothing else is to be done, and at once.

Everything on it happens in the same order in every run: tasks have numbers as hashes, so that sets
of them have one order, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Task(asyncio.Task[Any]):
    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self._number = number
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """time() begins at 0."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__()
        numbers = count()
        self.set_task_factory(
            lambda loop, coro, **kwargs: _Task(coro, loop=loop, number=next(numbers), **kwargs)
        )

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        if not ready:
            assert scheduled, "everything waits for something that nobody will do"
            self._now_s = max(self._now_s, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run something to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class VirtualClock:
    """A federation.core.clock.Clock over the running loop; wall clocks may differ by node."""

    def __init__(self, skew_s: float = 0.0) -> None:
        self.skew_s = skew_s

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time() + 1_000.0

    def wall_s(self) -> float:
        return asyncio.get_running_loop().time() + 1_800_000_000.0 + self.skew_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
