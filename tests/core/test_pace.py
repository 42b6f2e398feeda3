"""A pace keeps to its rate on average, and to its window."""

from __future__ import annotations

from datetime import datetime

import pytest

from federation.core.clock import ManualClock
from federation.core.pace import Pace
from federation.core.window import Window


def at(hour: int, minute: int = 0) -> ManualClock:
    return ManualClock(wall_s=datetime(2030, 1, 1, hour, minute).timestamp())


async def test_bytes_take_the_time_that_the_rate_says() -> None:
    clock = at(12)
    pace = Pace(clock, bytes_s=1000)
    began_s = clock.monotonic_s()
    for _ in range(50):
        await pace.turn()
        pace.spend(200)
    await pace.turn()
    assert clock.monotonic_s() - began_s == pytest.approx(10.0, abs=0.3)


async def test_without_a_rate_and_a_window_nothing_waits() -> None:
    clock = at(12)
    pace = Pace(clock)
    began_s = clock.monotonic_s()
    pace.spend(2**40)
    await pace.turn()
    assert not await pace.wait_a_little()
    assert clock.monotonic_s() == began_s


async def test_a_wait_comes_in_parts_so_that_it_can_be_given_up() -> None:
    clock = at(12)
    pace = Pace(clock, bytes_s=1)
    pace.spend(3600)
    began_s = clock.monotonic_s()
    assert await pace.wait_a_little()
    assert clock.monotonic_s() - began_s <= 0.5


async def test_a_turn_comes_when_the_window_opens() -> None:
    clock = at(12, 30)
    pace = Pace(clock, window=Window.parse("20:00-06:00"))
    assert pace.opens_in_s == pytest.approx(7.5 * 3600)
    began_s = clock.monotonic_s()
    await pace.turn()
    assert pace.opens_in_s == 0
    assert clock.monotonic_s() - began_s == pytest.approx(7.5 * 3600, abs=1)


@pytest.mark.parametrize(
    ("window", "hour", "ago_h"),
    [
        ("20:00-06:00", 21, 1),
        ("20:00-06:00", 5, 9),
        ("20:00-06:00", 12, 16),
        ("07:00-07:00", 6, 23),
    ],
)
def test_when_a_window_opened_last(window: str, hour: int, ago_h: int) -> None:
    wall_s = at(hour).wall_s()
    assert Window.parse(window).opened_ago_s(wall_s) == ago_h * 3600
