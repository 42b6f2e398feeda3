"""How a total is divided, and who waits for what."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.admission import Admission
from federation.core.fair_share import FairShare, ShareVerdict


def fill(share: FairShare, holder: str) -> int:
    count = 0
    while share.try_acquire(holder) is ShareVerdict.GRANTED:
        count += 1
    return count


def test_one_alone_gets_half_and_each_newcomer_finds_something() -> None:
    share = FairShare(lambda: 1000)
    assert fill(share, "a") == 500
    assert share.judge("a") is ShareVerdict.OVER_SHARE
    assert fill(share, "b") == 250
    assert fill(share, "c") == 125
    assert share.judge("d") is ShareVerdict.GRANTED


def test_who_had_more_gets_nothing_until_the_others_have_as_much() -> None:
    share = FairShare(lambda: 90)
    assert fill(share, "a") == 45
    share.release("a", 15)
    assert fill(share, "b") == 30
    assert share.judge("a") is share.judge("b") is ShareVerdict.OVER_SHARE
    assert share.largest() in {"a", "b"}


def test_a_number_that_is_set_counts_instead() -> None:
    share = FairShare(lambda: 100, lambda: 80)
    assert fill(share, "a") == 80
    assert fill(share, "b") == 20
    assert share.judge("b") is ShareVerdict.FULL
    share.release("a", 80)
    assert share.used == share.used_by("b") == 20


def test_one_is_served_even_where_there_is_too_little_for_it() -> None:
    share = FairShare(lambda: 10)
    assert share.try_acquire("a", 50) is ShareVerdict.GRANTED
    assert share.judge("b") is ShareVerdict.FULL
    share.release("a", 50)
    assert share.used == 0


async def test_who_finds_no_room_waits_in_turn_and_callers_take_turns() -> None:
    held_back: list[str] = []
    admission = Admission(lambda: 4, held_back=held_back.append)
    served: list[str] = []

    async def acquire(caller: str) -> None:
        await admission.acquire(caller, 4)
        served.append(caller)

    await acquire("a")
    async with asyncio.TaskGroup() as tasks:
        for caller in ("b", "b", "b", "c", "d"):
            tasks.create_task(acquire(caller))
        await asyncio.sleep(0)
        assert admission.waiting == 5
        while len(served) < 6:
            admission.release(served[-1], 4)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert served == ["a", "b", "c", "d", "b", "b"]
    assert held_back == ["b", "b", "b", "c", "d"]


async def test_who_leaves_while_waiting_takes_nothing() -> None:
    counted: list[int] = []
    admission = Admission(lambda: 8, counted=counted.append)
    await admission.acquire("a", 8)
    waiting = asyncio.get_running_loop().create_task(admission.acquire("b", 8))
    await asyncio.sleep(0)
    assert admission.waiting == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    admission.release("a", 8)
    assert (admission.used_bytes, admission.waiting, sum(counted)) == (0, 0, 0)


async def test_who_leaves_at_the_moment_of_its_turn_hands_it_on() -> None:
    admission = Admission(lambda: 8)
    await admission.acquire("a", 8)
    loop = asyncio.get_running_loop()
    first, second = (loop.create_task(admission.acquire(who, 8)) for who in ("b", "c"))
    await asyncio.sleep(0)
    admission.release("a", 8)
    first.cancel()
    await second
    assert admission.used_bytes == 8


async def test_what_turns_out_smaller_makes_room() -> None:
    admission = Admission(lambda: 8)
    await admission.acquire("a", 8)
    waiting = asyncio.get_running_loop().create_task(admission.acquire("b", 4))
    await asyncio.sleep(0)
    admission.adjust("a", -6)
    await waiting
    assert admission.used_bytes == 6
