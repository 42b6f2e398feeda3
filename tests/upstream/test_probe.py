"""Probing an upstream that is down."""

from federation.core.breaker import BreakerState
from federation.core.clock import ManualClock
from federation.core.errors import SourceUnavailable
from federation.upstream.probe import Prober
from tests.upstream.fakes import Script, until, upstream


async def test_an_upstream_that_came_back_is_found_by_probing_unless_this_node_is_offline() -> None:
    clock = ManualClock()
    made, store = upstream("hq", Script(down=True), clock)
    for _ in range(made.breaker.failures_max):
        made.note(SourceUnavailable("hq", "refused"))
    assert made.breaker.state is BreakerState.OPEN
    online = False
    prober = Prober([made], clock, lambda: online)
    prober.start()
    try:
        began_s = clock.monotonic_s()
        await until(lambda: clock.monotonic_s() > began_s + 100)
        assert store.finds == 0
        online = True
        await until(lambda: store.finds > 1)
        assert not made.is_up
        store.script.down = False
        await until(lambda: made.is_up)
    finally:
        await prober.close()
