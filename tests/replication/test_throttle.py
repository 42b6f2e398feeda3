"""Steps of replication in turn, and slots for batches: in order, bounded, and cheap to wait for."""

from __future__ import annotations

import asyncio
import itertools

from federation.core.semaphore import FairSlots
from federation.replication.throttle import LoopThrottle


async def test_r27_others_run_between_any_two_steps() -> None:
    throttle, seen = LoopThrottle(), []

    async def step(number: int) -> None:
        await throttle.turn()
        seen.append(f"step {number}")

    async def client() -> None:
        while len(seen) < 40:
            seen.append("client")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(client())
        for number in range(10):
            group.create_task(step(number))
    steps = [each for each in seen if each != "client"]
    assert steps == [f"step {number}" for number in range(10)]
    assert not [pair for pair in itertools.pairwise(seen) if "client" not in pair]


async def test_a_step_alone_does_not_wait() -> None:
    throttle = LoopThrottle()
    turn = throttle.turn()
    try:
        turn.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


async def test_a_turn_that_nobody_wants_any_more_goes_to_the_next() -> None:
    throttle = LoopThrottle()
    await throttle.turn()
    first, second = (asyncio.ensure_future(throttle.turn()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(60):
        await second


async def test_slots_are_given_in_order_and_follow_their_size() -> None:
    size, running, began = 2, set[int](), list[int]()
    slots = FairSlots(lambda: size)
    gates = [asyncio.Event() for _ in range(8)]

    async def batch(number: int) -> None:
        async with slots.one():
            running.add(number)
            began.append(number)
            await gates[number].wait()
            running.remove(number)

    tasks = [asyncio.ensure_future(batch(number)) for number in range(8)]

    async def settled() -> set[int]:
        for _ in range(5):
            await asyncio.sleep(0)
        return running

    assert await settled() == {0, 1}
    gates[0].set()
    assert await settled() == {1, 2}
    size = 4
    gates[1].set()
    assert await settled() == {2, 3, 4, 5}
    size = 1
    for number in (2, 3, 4):
        gates[number].set()
    assert await settled() == {5}
    for gate in gates:
        gate.set()
    await asyncio.gather(*tasks)
    assert began == list(range(8))
    assert slots.taken == 0


async def test_a_slot_that_came_too_late_is_given_on() -> None:
    slots, gate = FairSlots(lambda: 1), asyncio.Event()

    async def hold() -> None:
        async with slots.one():
            await gate.wait()

    first, second, third = (asyncio.ensure_future(hold()) for _ in range(3))
    await asyncio.sleep(0)
    gate.set()
    await first  # hands the slot over to the second
    second.cancel()
    async with asyncio.timeout(60):
        await third
    assert slots.taken == 0


async def test_r27_while_clients_call_the_loop_is_left_to_them_after_each_step() -> None:
    calls = True
    throttle, took_s = LoopThrottle(lambda: calls), []
    loop = asyncio.get_running_loop()

    async def steps(count: int) -> None:
        began_s = loop.time()
        for _ in range(count):
            await throttle.turn()
            until_s = loop.time() + 0.002
            while loop.time() < until_s:
                pass  # a step keeps the loop busy
        took_s.append(loop.time() - began_s)

    await asyncio.gather(steps(20), steps(20))
    assert min(took_s) > 40 * 0.002 + 30 * 0.002
