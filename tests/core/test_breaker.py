from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from federation.core.breaker import Breaker, BreakerState


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(now_s, "refused", random.Random(1))
    return breaker


def test_u06_it_opens_after_a_run_of_failures_and_not_before() -> None:
    breaker = Breaker()
    chance = random.Random(1)
    assert [breaker.failed(0.0, "x", chance) for _ in range(4)] == [False] * 4
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.failed(0.0, "x", chance) for _ in range(5)] == [False] * 4 + [True]
    assert not breaker.allows()
    assert breaker.last_error == "x"


def test_one_probe_at_a_time_and_its_success_closes() -> None:
    breaker = opened()
    assert not breaker.probe_due(0.0)
    assert breaker.probe_due(1.0)
    assert not breaker.probe_due(1.0)
    assert not breaker.allows()
    assert breaker.succeeded() is True
    assert breaker.allows()


def test_a_probe_that_never_ends_is_given_up() -> None:
    breaker = opened()
    assert breaker.probe_due(1.0)
    assert not breaker.probe_due(30.0)
    assert breaker.probe_due(31.5)


def test_delays_grow_to_a_bound_that_keeps_recovery_within_seconds() -> None:
    breaker = opened()
    chance = random.Random(1)
    now_s, delays = 0.0, []
    for _ in range(12):
        delays.append(breaker.next_probe_s - now_s)
        now_s = breaker.next_probe_s
        assert breaker.probe_due(now_s)
        breaker.failed(now_s, "still", chance)
    assert delays[0] <= 0.5
    assert 2.5 <= delays[-1] <= 5.0


def test_u09_what_time_does_not_mend_opens_at_once_for_long() -> None:
    breaker = Breaker()
    assert breaker.failed(0.0, "bad certificate", random.Random(1), needs_operator=True) is True
    assert not breaker.probe_due(20.0)
    assert breaker.probe_due(61.0)


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "probe"]), st.floats(0, 10)), max_size=60))
def test_it_never_stays_shut_longer_than_its_bounds(steps: list[tuple[str, float]]) -> None:
    breaker, now_s, chance = Breaker(), 0.0, random.Random(2)
    for step, passed_s in steps:
        now_s += passed_s
        if step == "ok":
            breaker.succeeded()
        elif step == "fail":
            breaker.failed(now_s, "x", chance)
        else:
            breaker.probe_due(now_s)
        if breaker.state is not BreakerState.CLOSED:
            bound_s = max(breaker.delay_max_s, breaker.probe_max_s)
            assert breaker.next_probe_s - now_s <= bound_s + 1e-6
