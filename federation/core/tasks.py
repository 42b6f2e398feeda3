"""Background tasks: kept by strong references, with failures always reported.

Work that must run as long as the node is given to `Background.keep`: it is restarted after each
failure, and if it keeps failing, the node reports that it is not ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from federation.core.clock import Clock
from federation.core.errors import FederationError

_log = structlog.get_logger(__name__)

_AGAIN_FIRST_S = 1.0
_AGAIN_MAX_S = 60.0
_SETTLED_S = 10.0  # work that runs for this long after a failure has settled


class FailingWork:
    """The background work of a node that keeps failing, for its readiness."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<FailingWork {sorted(self._reasons)}>"

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def reason(self) -> str:
        """Which work fails, and why; empty: none does."""
        return "; ".join(
            f"the background work '{name}' keeps failing ({reason}); the log has more"
            for name, reason in sorted(self._reasons.items())
        )

    def note(self, name: str, reason: str | None) -> None:
        """Record that work fails, or (None) that it no longer does."""
        if reason is None:
            self._reasons.pop(name, None)
        else:
            self._reasons[name] = reason


class Restarts:
    """When work that fails is begun again: later each time, until it has run well for a while."""

    def __init__(self) -> None:
        self.failures = 0  # since it last settled

    def __repr__(self) -> str:
        return f"<Restarts after {self.failures} failures>"

    def failed(self, ran_s: float) -> float:
        """Count a failure of work that ran for so long; return the seconds to wait."""
        self.failures = 1 if ran_s >= _SETTLED_S else self.failures + 1
        return min(_AGAIN_MAX_S, _AGAIN_FIRST_S * 2.0 ** min(self.failures - 1, 10))


async def sleep_unless(event: asyncio.Event, limit_s: float, clock: Clock) -> None:
    """Wait until the event is set, for at most limit_s seconds."""
    waiting = asyncio.ensure_future(event.wait())
    sleeping = asyncio.ensure_future(clock.sleep(limit_s))
    try:
        await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        sleeping.cancel()


async def _nothing() -> None:
    return


class Background:
    """Owns the tasks of one object; close() cancels them and waits for their end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Background {len(self._tasks)} tasks>"

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run work until it ends or close() is called."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        # asyncio keeps weak references only: a task that nobody holds may vanish in the middle.
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        clock: Clock,
        failing: FailingWork,
        *,
        let_go: Callable[[], Awaitable[None]] = _nothing,
    ) -> asyncio.Task[Any]:
        """Run work, and restart it after each failure, until it returns or close() is called.

        let_go is called after each failure, so that another process can do the work meanwhile. If
        the work fails twice before it has settled, the node is not ready until it has settled.
        """
        return self.start(self._keep(work, name, clock, failing, let_go), name)

    async def _keep(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        clock: Clock,
        failing: FailingWork,
        let_go: Callable[[], Awaitable[None]],
    ) -> None:
        restarts = Restarts()
        while True:
            begun_s = clock.monotonic_s()
            try:
                if restarts.failures:
                    await self._settle(work(), name, clock, failing)
                else:
                    await work()
            except Exception as error:  # noqa: BLE001 - the outermost loop of all such work
                again_in_s = restarts.failed(clock.monotonic_s() - begun_s)
                failures = restarts.failures
                # Trouble that has a type of its own (a disk that is away) is known; a traceback
                # says nothing more about it.
                known = isinstance(error, FederationError)
                facts = {"reason": str(error)} if known else {"exc_info": error}
                _log.error("background_work_failed", task=name, failures=failures, **facts)
                # The first restart mostly helps, and a node that is not ready takes no builds.
                if failures > 1:
                    failing.note(name, f"{type(error).__name__}: {error}")
            else:
                failing.note(name, None)
                return
            await self._let_go(let_go, name)
            await clock.sleep(again_in_s)

    async def _settle(
        self, work: Coroutine[Any, Any, None], name: str, clock: Clock, failing: FailingWork
    ) -> None:
        """Run work; after _SETTLED_S it no longer counts as failing."""
        # A task of its own: the work must not stop when the timer beside it ends.
        task = asyncio.ensure_future(work)
        settled = asyncio.ensure_future(clock.sleep(_SETTLED_S))
        try:
            await asyncio.wait({task, settled}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                failing.note(name, None)
            await task
        finally:
            settled.cancel()
            task.cancel()
            await asyncio.gather(task, settled, return_exceptions=True)

    async def _let_go(self, let_go: Callable[[], Awaitable[None]], name: str) -> None:
        try:
            await let_go()
        except Exception:  # noqa: BLE001 - the work itself must go on
            _log.exception("background_work_failed", task=name)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # asyncio reports a failure only when the task is freed, which may be never.
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background_task_failed", task=task.get_name(), exc_info=error)

    async def drain(self) -> None:
        """Wait until all tasks have ended without being cancelled."""
        # Tasks may start others before they end.
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cancel all tasks and wait until each has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def first_of(error: BaseException) -> BaseException:
    """Return the first failure in a group, however deep; the others usually follow from it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
