from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref

import pytest

from federation.core.worker_threads import WorkerThreads


class Gate:
    """A job that waits until it is let go, and says which thread does it."""

    def __init__(self) -> None:
        self.begun, self._go, self.done = threading.Event(), threading.Event(), threading.Event()
        self.thread = 0

    def __call__(self) -> None:
        self.thread = threading.get_ident()
        self.begun.set()
        assert self._go.wait(30)
        self.done.set()

    def let_go(self) -> None:
        self._go.set()


def test_no_more_threads_work_than_are_allowed_and_the_rest_waits_in_order() -> None:
    threads = WorkerThreads("t", 2)
    gates = [Gate() for _ in range(4)]
    for gate in gates:
        threads.put(gate)
    assert gates[0].begun.wait(30)
    assert gates[1].begun.wait(30)
    assert repr(threads) == "<WorkerThreads t: 2 busy, 2 jobs wait>"
    gates[1].let_go()
    assert gates[2].begun.wait(30)
    assert not gates[3].begun.is_set()
    for gate in gates:
        gate.let_go()
    threads.close()
    assert gates[3].done.is_set()
    assert len({gate.thread for gate in gates}) == 2


def test_without_room_for_more_threads_those_that_there_are_do_all_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, refused = threading.Thread.start, 0

    def start_if_allowed(thread: threading.Thread) -> None:
        nonlocal refused
        if refused_now:
            refused += 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_allowed)
    threads = WorkerThreads("t", 4)
    refused_now = True
    with pytest.raises(RuntimeError):
        threads.put(Gate())
    refused_now = False
    gates = [Gate() for _ in range(4)]
    threads.put(gates[0])
    assert gates[0].begun.wait(30)
    refused_now = True
    for gate in gates[1:3]:
        threads.put(gate)
    for gate in gates[:3]:
        gate.let_go()
        assert gate.done.wait(30)
    assert refused >= 3
    refused_now = False
    gates[3].let_go()
    threads.put(gates[3])
    assert gates[3].done.wait(30)
    threads.close()


def test_jobs_one_at_a_time_are_done_by_one_thread() -> None:
    threads = WorkerThreads("t", 8)
    seen = set()
    for _ in range(50):
        gate = Gate()
        gate.let_go()
        threads.put(gate)
        assert gate.done.wait(30)
        seen.add(gate.thread)
        while "0 busy" not in repr(threads):
            pass
    assert len(seen) == 1
    threads.close()


def test_the_thread_that_was_busy_last_comes_first() -> None:
    threads = WorkerThreads("t", 8)
    early, late, third = Gate(), Gate(), Gate()
    for gate in (early, late):
        threads.put(gate)
        assert gate.begun.wait(30)
    for gate, busy in ((early, 1), (late, 0)):
        gate.let_go()
        while f"{busy} busy" not in repr(threads):
            pass
    third.let_go()
    threads.put(third)
    assert third.done.wait(30)
    assert third.thread == late.thread
    threads.close()


def test_a_job_that_waits_holds_up_no_other_as_long_as_there_are_threads() -> None:
    threads = WorkerThreads("t", 8)
    gates = [Gate() for _ in range(8)]
    for gate in gates:
        threads.put(gate)
    for gate in gates:
        assert gate.begun.wait(30)
    for gate in gates:
        gate.let_go()
    threads.close()


async def test_what_a_job_returns_or_raises_comes_back() -> None:
    threads = WorkerThreads("t", 2)
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    gate = Gate()
    asking = asyncio.ensure_future(threads.run(gate))
    assert await threads.run(gate.begun.wait, 30)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.let_go()
    await asyncio.to_thread(threads.close)
    assert gate.done.is_set(), "a job that had begun was stopped"


def test_the_end_waits_for_all_jobs_and_takes_no_more() -> None:
    threads = WorkerThreads("t", 3)
    done: list[int] = []
    for number in range(1000):
        threads.put(done.append, number)
    threads.close()
    assert sorted(done) == list(range(1000))
    with pytest.raises(RuntimeError, match="have ended"):
        threads.put(print)
    threads.close()


async def test_what_a_failed_job_was_given_is_freed_without_a_collection() -> None:
    class Large:
        pass

    def fail(_: Large) -> None:
        raise ZeroDivisionError

    threads, large = WorkerThreads("t", 2), Large()
    given = weakref.ref(large)
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError) as raised:
            await threads.run(fail, large)
        del large, raised
        await asyncio.to_thread(threads.close)
        assert given() is None, "a cycle keeps it"
    finally:
        gc.enable()


@pytest.mark.parametrize("seed", range(5))
def test_no_job_is_forgotten_whoever_puts_it_and_when(seed: int) -> None:
    rng = random.Random(seed)
    threads = WorkerThreads("t", rng.randint(1, 4))
    done: list[int] = []
    begin = threading.Barrier(4)

    def put(numbers: range) -> None:
        begin.wait()
        for number in numbers:
            ended = threading.Event()
            threads.put(done.append, number)
            threads.put(ended.set)
            if number % 7 == 0:
                assert ended.wait(30), "a job was forgotten"

    putting = [threading.Thread(target=put, args=(range(n, n + 300),)) for n in (0, 300, 600, 900)]
    for each in putting:
        each.start()
    for each in putting:
        each.join()
    threads.close()
    assert sorted(done) == list(range(1200))
