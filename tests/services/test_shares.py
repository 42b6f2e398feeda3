"""A caller that has its share waits for the rest; others do not notice, and nothing grows."""

import asyncio

import pytest

from federation.config.limits import LiveLimits
from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.core.errors import Stalled
from federation.observability.metrics import Metrics
from federation.services.cas import CasService
from federation.services.cpu_pool import Compute
from federation.services.quotas import CallerQuota, CallerQuotas
from tests.services.conftest import Serve
from tests.support.fakes import MemoryStore
from tests.support.samples import sample_value

KIB = 2**10
ALICE, BOB = "alice", "bob"


class Bench:
    def __init__(self, **limits: int | float) -> None:
        self.limits = LiveLimits.model_validate(limits)
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.shares = CallerQuotas(self.limits, self.clock, self.metrics)
        self.begun: list[str] = []

    def share(self, caller: str = ALICE) -> CallerQuota | None:
        return self.shares.of(caller)

    def upload(self, caller: str = ALICE, until: asyncio.Event | None = None) -> asyncio.Task[None]:
        """Start a writing call that ends when `until` is set."""

        async def run() -> None:
            share = self.share(caller)
            assert share is not None
            async with share.acquired(writes=True):
                self.begun.append(caller)
                await (until or asyncio.Event()).wait()

        return asyncio.get_running_loop().create_task(run())

    def held_back(self, by: str) -> float:
        name = "federation_callers_held_back_total"
        return sample_value(self.metrics, name, {"by": by})


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def finish(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_without_limits_nobody_has_a_share() -> None:
    assert Bench().share() is None


async def test_uploads_above_the_number_wait_in_turn_and_others_do_not() -> None:
    bench = Bench(uploads_per_caller=2)
    ends = [asyncio.Event() for _ in range(4)]
    running = [bench.upload(until=end) for end in ends]
    other = bench.upload(BOB)
    await settle()
    assert bench.begun == ["alice", "alice", "bob"]
    assert repr(bench.share()) == "<CallerQuota alice: 2 uploads, 2 waiting>"
    assert bench.held_back("uploads") == 2
    for end in ends:
        end.set()
        await settle()
    assert bench.begun.count("alice") == 4
    await asyncio.gather(*running)
    assert repr(bench.share()) == "<CallerQuota alice: 0 uploads, 0 waiting>"
    await finish(other)


async def test_who_leaves_while_it_waits_gives_its_turn_to_the_next() -> None:
    bench = Bench(uploads_per_caller=1)
    end = asyncio.Event()
    first, second = bench.upload(until=end), bench.upload()
    await settle()
    third = bench.upload()
    await settle()
    await finish(second)
    end.set()
    await settle()
    assert bench.begun == ["alice", "alice"]
    await finish(first, third)
    assert repr(bench.share()) == "<CallerQuota alice: 0 uploads, 0 waiting>"


async def test_a_turn_that_comes_when_its_caller_leaves_is_not_lost() -> None:
    bench = Bench(uploads_per_caller=1)
    share = bench.share()
    assert share is not None
    async with share.acquired(writes=True):
        second = bench.upload()
        await settle()
    second.cancel()  # nothing has run since its turn came
    await settle()
    assert bench.begun == []
    third = bench.upload()
    await settle()
    assert bench.begun[-1] == "alice"
    assert repr(bench.share()) == "<CallerQuota alice: 1 uploads, 0 waiting>"
    await finish(third)


async def test_a_turn_that_never_comes_ends_the_call_in_words() -> None:
    bench = Bench(uploads_per_caller=1, stall=0.05)
    first = bench.upload()
    await settle()
    with pytest.raises(Stalled, match="alice has 1 uploads running, the most allowed"):
        await bench.upload()
    await finish(first)
    assert repr(bench.share()) == "<CallerQuota alice: 0 uploads, 0 waiting>"


async def test_a_limit_that_was_raised_lets_in_all_that_fit() -> None:
    bench = Bench(uploads_per_caller=1)
    end = asyncio.Event()
    running = [bench.upload(until=end), *(bench.upload() for _ in range(3))]
    await settle()
    bench.limits.apply_config(LimitsConfig(uploads_per_caller=3))
    end.set()
    await settle()
    assert len(bench.begun) == 4
    await finish(*running)


async def test_reads_are_no_uploads() -> None:
    bench = Bench(uploads_per_caller=1)
    upload = bench.upload()
    await settle()
    share = bench.share()
    assert share is not None
    async with share.acquired(writes=False):
        pass
    await finish(upload)


async def test_bytes_above_the_rate_take_their_time_and_a_pause_earns_one_second() -> None:
    bench = Bench(bandwidth_per_caller=100 * KIB)
    share, began_s = bench.share(), bench.clock.monotonic_s()
    assert share is not None
    await share.pay(100 * KIB)
    assert bench.clock.monotonic_s() == began_s
    for _ in range(5):
        await share.pay(100 * KIB)
    assert bench.clock.monotonic_s() - began_s == pytest.approx(5, abs=0.01)
    assert bench.held_back("bandwidth") == 5
    bench.clock.advance(3600)
    began_s = bench.clock.monotonic_s()
    await share.pay(200 * KIB)
    assert bench.clock.monotonic_s() - began_s == pytest.approx(1, abs=0.01)


async def test_the_table_is_bounded_and_keeps_who_is_in_debt_or_at_work() -> None:
    bench = Bench(bandwidth_per_caller=64 * KIB, uploads_per_caller=1)
    debtor = bench.share(BOB)
    assert debtor is not None
    debtor._credit.tokens = -1e9
    upload = bench.upload(ALICE)
    await settle()
    at_work = bench.share(ALICE)
    for turn in range(12_000):
        bench.share(f"caller {turn}")
    assert repr(bench.shares) == "<CallerQuotas of 10000>"
    assert bench.share(BOB) is debtor
    assert bench.share(ALICE) is at_work
    await finish(upload)


async def test_through_a_server_more_bytes_than_the_rate_take_their_time(
    serve: Serve, store: MemoryStore, compute: Compute
) -> None:
    limits, metrics = LiveLimits(bandwidth_per_caller=2**20), Metrics()
    clock = ManualClock()
    served = await serve(
        CasService(store, limits, metrics, compute),
        limits=limits,
        metrics=metrics,
        clock=clock,
        quotas=CallerQuotas(limits, clock, metrics),
    )
    began_s = clock.monotonic_s()
    for _ in range(5):
        method = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs"
        junk = b"\x7a" + b"\x80\x80\x40" + bytes(2**20)  # an unknown field of a mebibyte
        await served.channel.unary_unary(method, None, None)(junk)
    assert clock.monotonic_s() - began_s == pytest.approx(4, abs=0.1)
