"""When the next upstream is asked besides a silent one, in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from federation.upstream.hedge import Hedge
from federation.upstream.upstream import Upstream
from tests.replication.virtual_time import run
from tests.upstream.fakes import upstream


async def _asked_at(delays_s: list[float]) -> tuple[dict[str, float], list[Upstream]]:
    """Return when each of these upstreams was asked; only the last one answers, at once."""
    asked: dict[str, float] = {}
    upstreams = [
        upstream(f"up-{number}", hedge_delay_s=delay_s)[0]
        for number, delay_s in enumerate(delays_s)
    ]

    async def ask(one: Upstream) -> str:
        asked[one.name] = round(asyncio.get_running_loop().time(), 3)
        if one is not upstreams[-1]:
            await asyncio.Event().wait()
        return one.name

    async with aclosing(Hedge(upstreams, ask).answers()) as answers:
        async for one, _ in answers:
            assert one is upstreams[-1]
            break
    return asked, upstreams


def test_each_is_given_its_own_hedge_delay() -> None:
    asked, upstreams = run(_asked_at([2.0, 5.0, 1.0]))
    assert asked == {"up-0": 0.0, "up-1": 2.0, "up-2": 7.0}
    assert [each.breaker.failures for each in upstreams] == [1, 1, 0]


def test_a_late_one_with_a_long_delay_does_not_prolong_that_of_the_next() -> None:
    asked, _ = run(_asked_at([5.0, 2.0, 1.0]))
    assert asked == {"up-0": 0.0, "up-1": 5.0, "up-2": 7.0}
