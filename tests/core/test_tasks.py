"""Background work that is kept: begun again after each failure, and told of while it fails."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from federation.core.errors import SourceUnavailable
from federation.core.tasks import Background, FailingWork


class StepClock:
    """Time that passes only while somebody sleeps, and whoever sleeps shortest wakes first."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            await asyncio.sleep(0)
            self.now_s += 0.25


class Work:
    """Fails so many times, each after some time, and then goes on."""

    def __init__(self, clock: StepClock, failures: int, *, after_s: float = 0.0) -> None:
        self._clock = clock
        self._failures = failures
        self._after_s = after_s
        self.begun_at_s: list[float] = []

    async def run(self) -> None:
        self.begun_at_s.append(self._clock.now_s)
        if len(self.begun_at_s) <= self._failures:
            if self._after_s:
                await self._clock.sleep(self._after_s)
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        await self._clock.sleep(10_000)


async def begun(work: Work, times: int) -> None:
    while len(work.begun_at_s) < times:  # noqa: ASYNC110 - virtual time has no event to give
        await asyncio.sleep(0)


async def pass_until(clock: StepClock, at_s: float) -> None:
    while clock.now_s < at_s:
        await clock.sleep(0.25)


async def test_work_that_fails_begins_again_after_growing_delays() -> None:
    clock, failing, background = StepClock(), FailingWork(), Background()
    work = Work(clock, failures=9)
    background.keep(work.run, "scrub", clock, failing)
    await pass_until(clock, 600.0)
    delays = [b - a for a, b in zip(work.begun_at_s, work.begun_at_s[1:], strict=False)]
    assert len(delays) == 9
    assert delays[0] < 4 < delays[3]
    assert max(delays) < 70
    await background.close()


async def test_work_that_keeps_failing_is_told_of_until_it_has_settled() -> None:
    clock, failing, background = StepClock(), FailingWork(), Background()
    work = Work(clock, failures=3)
    background.keep(work.run, "scrub", clock, failing)
    await begun(work, 3)
    assert "'scrub' keeps failing (UnicodeDecodeError" in failing.reason
    await begun(work, 4)
    assert failing.reason, "it has only just begun again"
    await pass_until(clock, clock.now_s + 15)
    assert failing.reason == ""
    await background.close()


async def test_one_failure_now_and_then_is_logged_and_no_more() -> None:
    clock, failing, background = StepClock(), FailingWork(), Background()
    work = Work(clock, failures=5, after_s=60.0)
    background.keep(work.run, "scrub", clock, failing)
    for _ in range(400):
        await clock.sleep(1.0)
        assert failing.reason == ""
    assert len(work.begun_at_s) >= 5
    await background.close()


async def test_trouble_that_has_a_type_is_logged_without_a_traceback() -> None:
    clock, background = StepClock(), Background()

    async def away() -> None:
        raise SourceUnavailable("blobs/", "not mounted")

    with structlog.testing.capture_logs() as events:
        background.keep(away, "sweep", clock, FailingWork())
        await clock.sleep(1.0)
        await background.close()
    assert events[0]["event"] == "background_work_failed"
    assert "not mounted" in events[0]["reason"]
    assert "exc_info" not in events[0]


async def test_work_that_failed_lets_go_of_what_it_held_before_it_waits() -> None:
    clock, failing, background = StepClock(), FailingWork(), Background()
    work, let_go_at_s = Work(clock, failures=2), list[float]()

    async def let_go() -> None:
        let_go_at_s.append(clock.now_s)
        raise OSError("even if that fails")

    background.keep(work.run, "maintenance", clock, failing, let_go=let_go)
    await pass_until(clock, 120.0)
    assert len(work.begun_at_s) == 3
    assert [at <= begun - 0.5 for at, begun in zip(let_go_at_s, work.begun_at_s[1:], strict=True)]
    await background.close()


async def test_work_that_ends_by_itself_is_not_begun_again() -> None:
    clock, failing, background = StepClock(), FailingWork(), Background()
    runs = 0

    async def once() -> None:
        nonlocal runs
        runs += 1

    await background.keep(once, "sweep", clock, failing)
    assert runs == 1


@pytest.mark.parametrize("failures", [0, 2])
async def test_closing_ends_kept_work_at_any_stage(failures: int) -> None:
    clock, failing, background = StepClock(), FailingWork(), Background()
    work = Work(clock, failures)
    task = background.keep(work.run, "scrub", clock, failing)
    await begun(work, failures + 1)
    await background.close()
    assert task.cancelled()
    assert len(asyncio.all_tasks()) == 1
