"""A peer that calls us can be called, too: that ends the delay, but is not believed too often."""

from __future__ import annotations

import random

import pytest

from federation.core.clock import ManualClock
from federation.remote.failures import FailureKind, RemoteFailed, failure
from federation.replication.gate import Gate


async def closed_by(kind: FailureKind) -> tuple[Gate, ManualClock]:
    clock = ManualClock()
    gate = Gate("there", clock, 10.0, random.Random(1))
    with pytest.raises(RemoteFailed):
        async with gate.turn(writes=False):
            raise failure("there", kind, "as the test says")
    return gate, clock


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        (FailureKind.UNAVAILABLE, True),
        (FailureKind.TIMEOUT, True),
        (FailureKind.EXHAUSTED, False),
        (FailureKind.DENIED, False),
    ],
)
async def test_a_sign_of_life_ends_the_delay_of_one_that_was_away(
    kind: FailureKind, ends: bool
) -> None:
    gate, _ = await closed_by(kind)
    assert gate.wait_s > 0
    gate.heard_from()
    assert (gate.wait_s == 0) is ends
    assert not gate.is_open  # one call tries first


async def test_signs_of_life_do_not_make_it_try_more_than_once_a_second() -> None:
    gate, clock = await closed_by(FailureKind.UNAVAILABLE)
    tries = 0
    for _ in range(30):
        gate.heard_from()
        if gate.wait_s == 0:
            tries += 1
            with pytest.raises(RemoteFailed):
                async with gate.turn(writes=False):
                    raise failure("there", FailureKind.UNAVAILABLE, "still away")
        clock.advance(0.1)
    assert 2 <= tries <= 4
