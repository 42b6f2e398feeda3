"""A flood of refused calls is a few lines, which say how many they stand for."""

import pytest
from structlog.testing import capture_logs

from federation.access.rights import ANONYMOUS, Rights, Role
from federation.core.clock import ManualClock
from federation.core.errors import NotAllowed
from federation.observability.rate_limits import LogLimit
from federation.services.call_log import AuthLog


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def refusals(clock: ManualClock) -> AuthLog:
    return AuthLog(LogLimit(clock))


def test_a_flood_is_held_back_and_counted(clock: ManualClock, refusals: AuthLog) -> None:
    with capture_logs() as logs:
        for _ in range(1000):
            refusals.log_refusal(NotAllowed("no"), "M", "ipv4:1.2.3.4:5")
        clock.advance(10)
        refusals.log_refusal(NotAllowed("no"), "M", "ipv4:1.2.3.4:5")
    assert len(logs) == 51
    assert logs[-1]["held_back"] == 950
    assert logs[0] == {
        "event": "client_refused",
        "log_level": "warning",
        "reason": "no",
        "peer": "ipv4:1.2.3.4:5",
        "method": "M",
        "held_back": 0,
    }


def test_who_is_known_is_named_and_who_showed_nothing_is_no_warning(refusals: AuthLog) -> None:
    with capture_logs() as logs:
        refusals.log_refusal(NotAllowed("no"), "M", "p", Rights("token ci (1)", Role.PULL))
        refusals.log_refusal(NotAllowed("no"), "M", "p", Rights(ANONYMOUS, Role.PULL))
    assert [(x["identity"], x["log_level"]) for x in logs] == [
        ("token ci (1)", "warning"),
        (ANONYMOUS, "info"),
    ]
