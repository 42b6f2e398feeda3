"""Unary calls: tried again within bounds, never in a storm, never longer than allowed."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from federation.core import hops
from federation.core.clock import ManualClock, SystemClock
from federation.core.digest import digest_of
from federation.core.index import Stamp
from federation.core.provenance import Provenance, Source
from federation.remote.failures import Denied, FailureKind, RemoteFailed, Unsupported
from federation.remote.methods import BATCH_UPDATE
from tests.remote import fake_server
from tests.remote.blobs import noise, read, until
from tests.remote.fake_server import FakeServer, fails, first_times, hangs
from tests.remote.served import NODE_ID, Here, connected

FIND, UPDATE = "FindMissingBlobs", "BatchUpdateBlobs"
ASKED = digest_of(b"asked")


class SleepLog(SystemClock):
    """Real time, except that sleeping takes none and is written down."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self._ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self._ahead_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self._ahead_s += seconds
        await asyncio.sleep(0)


async def fails_with(here: Here) -> RemoteFailed:
    with pytest.raises(RemoteFailed) as caught:
        await here.store.find_missing([ASKED])
    return caught.value


RETRYABLE = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
]


@pytest.mark.parametrize("code", RETRYABLE)
async def test_what_may_pass_is_tried_again(fake: FakeServer, code: grpc.StatusCode) -> None:
    clock = SleepLog()
    good = fake._FindMissingBlobs
    fake.does[FIND] = first_times(3, fails(code), good)
    async with connected(fake.address, clock, retry_limit=3, retry_delay_s=1.0) as here:
        assert await here.store.find_missing([ASKED]) == {ASKED}
    assert len(fake.calls(FIND)) == 4
    for slept_s, delay_s in zip(clock.slept_s, (1.0, 2.0, 4.0), strict=True):
        assert 0.5 * delay_s <= slept_s <= 1.5 * delay_s


async def test_retries_end(fake: FakeServer) -> None:
    fake.does[FIND] = fails(grpc.StatusCode.UNAVAILABLE)
    async with connected(fake.address, SleepLog(), retry_limit=2, retry_delay_s=1.0) as here:
        assert (await fails_with(here)).kind is FailureKind.UNAVAILABLE
        assert here.calls(FIND, "unavailable") == 3
    assert len(fake.calls(FIND)) == 3


async def test_retries_stay_within_the_time_for_the_request(fake: FakeServer) -> None:
    fake.does[FIND] = fails(grpc.StatusCode.UNAVAILABLE)
    clock = SleepLog()
    changes = {"retry_limit": 100, "retry_delay_s": 1.0, "request_timeout_s": 30.0}
    async with connected(fake.address, clock, **changes) as here:
        await fails_with(here)
    assert sum(clock.slept_s) < 30
    assert len(fake.calls(FIND)) < 8


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    ],
)
async def test_u09_what_will_not_pass_is_tried_once(
    fake: FakeServer, code: grpc.StatusCode
) -> None:
    fake.does[FIND] = fails(code)
    async with connected(fake.address, retry_limit=5) as here:
        error = await fails_with(here)
        shown = here.remote.describe()["last_failure"]
    assert len(fake.calls(FIND)) == 1
    assert not error.is_retryable
    assert error.needs_operator is isinstance(error, Denied)
    assert shown["kind"] == error.kind
    assert shown["stubborn"] is error.needs_operator


async def test_u07_the_delay_that_the_remote_asks_for_is_kept(fake: FakeServer) -> None:
    clock = SleepLog()
    busy = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=7.5)
    fake.does[FIND] = first_times(1, busy, fake._FindMissingBlobs)
    async with connected(fake.address, clock, retry_limit=1, retry_delay_s=0.01) as here:
        assert await here.store.find_missing([ASKED]) == {ASKED}
    assert clock.slept_s == [7.5]


async def test_u07_a_delay_beyond_the_time_left_fails_at_once_and_is_told(
    fake: FakeServer,
) -> None:
    clock = SleepLog()
    fake.does[FIND] = fails(grpc.StatusCode.UNAVAILABLE, retry_after_s=600.0)
    async with connected(fake.address, clock, retry_limit=5) as here:
        error = await fails_with(here)
    assert error.retry_after_s == 600.0
    assert error.is_retryable
    assert clock.slept_s == []
    assert len(fake.calls(FIND)) == 1


async def test_u07_an_absurd_or_broken_delay_is_bounded_or_ignored(fake: FakeServer) -> None:
    async def broken(_request: bytes, context: fake_server.Context) -> bytes:
        trailers = (("grpc-status-details-bin", b"\xff\xff"),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "told to", trailers)

    async with connected(fake.address) as here:
        fake.does[FIND] = fails(grpc.StatusCode.UNAVAILABLE, retry_after_s=1e9)
        assert (await fails_with(here)).retry_after_s == 3600.0
        fake.does[FIND] = fails(grpc.StatusCode.UNAVAILABLE, retry_after_s=-5.0)
        assert (await fails_with(here)).retry_after_s == 0.0
        fake.does[FIND] = broken
        assert (await fails_with(here)).retry_after_s is None


async def test_u04_a_call_that_is_never_answered_ends_in_time(fake: FakeServer) -> None:
    fake.does[FIND] = hangs
    async with connected(fake.address, retry_limit=3, request_timeout_s=0.3) as here:
        assert (await fails_with(here)).kind is FailureKind.TIMEOUT
        assert here.remote.calls.slots.running == 0


async def test_u04_a_question_that_gets_no_answer_is_a_stall_and_not_asked_again(
    fake: FakeServer,
) -> None:
    fake.does[FIND] = hangs
    async with connected(fake.address, stall_s=0.3, retry_limit=3) as here, asyncio.timeout(60):
        assert (await fails_with(here)).kind is FailureKind.TIMEOUT
    assert len(fake.calls(FIND)) == 1


async def test_a_method_that_is_not_there_for_minutes_is_remembered_for_a_while(
    fake: FakeServer,
) -> None:
    clock = ManualClock()
    fake.does[UPDATE] = fails(grpc.StatusCode.UNIMPLEMENTED)
    async with connected(fake.address, clock) as here:

        async def asks() -> None:
            with pytest.raises(Unsupported):
                await here.remote.calls.unary(BATCH_UPDATE, b"")

        for _ in range(3):
            await asks()
        assert here.remote.describe()["unsupported"] == []  # it may be a proxy, for a moment
        clock.advance(301)
        for _ in range(3):
            await asks()
        assert len(fake.calls(UPDATE)) == 4
        (shown,) = here.remote.describe()["unsupported"]
        assert shown.endswith(".ContentAddressableStorage/BatchUpdateBlobs")
        clock.advance(601)
        await asks()  # this one finds out again
        await asks()
        assert len(fake.calls(UPDATE)) == 5
        clock.advance(601)
        del fake.does[UPDATE]
        await here.remote.calls.unary(BATCH_UPDATE, b"")
        assert here.remote.describe()["unsupported"] == []


async def test_an_answer_in_between_shows_that_a_method_is_there(fake: FakeServer) -> None:
    clock = ManualClock()
    async with connected(fake.address, clock) as here:
        for _ in range(5):
            fake.does[UPDATE] = fails(grpc.StatusCode.UNIMPLEMENTED)
            with pytest.raises(Unsupported):
                await here.remote.calls.unary(BATCH_UPDATE, b"")
            clock.advance(200)
            del fake.does[UPDATE]
            await here.remote.calls.unary(BATCH_UPDATE, b"")
        assert here.remote.describe()["unsupported"] == []
        assert len(fake.calls(UPDATE)) == 10


async def test_find_missing_is_asked_for_whatever_was_said_before(fake: FakeServer) -> None:
    clock = ManualClock()
    fake.does[FIND] = fails(grpc.StatusCode.UNIMPLEMENTED)
    async with connected(fake.address, clock) as here:
        for _ in range(5):
            assert isinstance(await fails_with(here), Unsupported)
            clock.advance(301)
        del fake.does[FIND]
        assert await here.store.find_missing([ASKED]) == {ASKED}


async def test_u27_calls_at_once_and_calls_that_wait_are_bounded(fake: FakeServer) -> None:
    gate = asyncio.Event()
    running = most = 0

    async def slow(request: bytes, context: fake_server.Context) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return await fake._FindMissingBlobs(request, context)

    fake.does[FIND] = slow
    async with connected(fake.address, concurrency=3, queue_max=5) as here:
        await here.remote.capabilities()
        tasks = [asyncio.ensure_future(here.store.find_missing([ASKED])) for _ in range(20)]
        await until(lambda: running == 3, "three calls run")
        await until(lambda: sum(task.done() for task in tasks) == 12, "twelve are turned away")
        assert (here.remote.calls.slots.running, here.remote.calls.slots.queued) == (3, 5)
        gate.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert most == 3
        assert sum(each == {ASKED} for each in ended) == 8
        busy = [each for each in ended if isinstance(each, RemoteFailed)]
        assert {each.kind for each in busy} == {FailureKind.BUSY}
        assert all(each.is_local_limit for each in busy)
        assert here.remote.describe()["last_failure"] is None
        assert (here.remote.calls.slots.running, here.remote.calls.slots.queued) == (0, 0)


async def test_a_call_that_waits_too_long_for_its_turn_fails(fake: FakeServer) -> None:
    digest = fake.holds(noise(1000))
    fake.streams = fake_server.hangs_after(500)
    alone = connected(fake.address, concurrency=1, request_timeout_s=0.2, stall_s=30)
    async with alone as here, here.store.open_read(digest):
        assert (await fails_with(here)).kind is FailureKind.BUSY
        assert here.remote.calls.slots.queued == 0


async def test_closing_ends_everything(fake: FakeServer, here: Here) -> None:
    digest = fake.holds(noise(1000))
    fake.streams = fake_server.hangs_after(500)
    fake.does[FIND] = hangs
    calls = [
        asyncio.ensure_future(here.store.find_missing([ASKED])),
        asyncio.ensure_future(read(here.store, digest)),
    ]
    await until(lambda: fake.calls(FIND) and fake.calls("Read"), "both calls run")
    await here.remote.close()
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(ended, RemoteFailed)
        assert ended.kind in {FailureKind.CLOSED, FailureKind.CANCELLED}
    assert (await fails_with(here)).kind is FailureKind.CLOSED
    assert here.remote.describe()["connection"] == "closed"


async def test_a_cancelled_call_is_cancelled_and_not_failed(fake: FakeServer, here: Here) -> None:
    fake.does[FIND] = hangs
    task = asyncio.ensure_future(here.store.find_missing([ASKED]))
    await until(lambda: fake.calls(FIND), "the call runs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert here.calls(FIND, "left") == 1
    assert here.remote.describe()["last_failure"] is None


async def test_a_time_limit_of_the_caller_is_its_own(fake: FakeServer, here: Here) -> None:
    fake.does[FIND] = hangs
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await here.store.find_missing([ASKED])
    digest = fake.holds(noise(1000))
    fake.streams = fake_server.hangs_after(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await read(here.store, digest)


async def test_every_call_says_which_nodes_it_has_passed(fake: FakeServer, here: Here) -> None:
    digest = fake.holds(noise(1000))
    await here.store.find_missing([ASKED])
    with hops.serving(hops.Hops(("a", "b"), "a")):
        await here.store.find_missing([ASKED])
        await read(here.store, digest)
    alone, behind, reading = *fake.calls(FIND), *fake.calls("Read")
    assert hops.parse(alone.metadata.items()) == hops.Hops((NODE_ID,), NODE_ID)
    for call in (behind, reading):
        assert hops.parse(call.metadata.items()) == hops.Hops(("a", "b", NODE_ID), "a")


async def test_what_is_written_by_replication_says_so(fake: FakeServer, here: Here) -> None:
    data = noise(100)
    marked = hops.Hops(replicates=True, stamp=Stamp(7, "a"))
    with hops.serving(marked):
        await here.store.write_small(
            [(digest_of(data), data)], provenance=Provenance(Source.PEER, ("a", "b"))
        )
    (call,) = fake.calls("BatchUpdateBlobs")
    assert hops.parse(call.metadata.items()) == hops.Hops(
        ("a", "b", NODE_ID), "a", replicates=True, stamp=Stamp(7, "a")
    )


async def test_u17_a_request_that_has_passed_too_many_nodes_goes_no_further(
    fake: FakeServer, here: Here
) -> None:
    await here.remote.capabilities()
    with hops.serving(hops.Hops(tuple(f"n{i}" for i in range(hops.HOPS_MAX)), "n0")):
        error = await fails_with(here)
    assert error.kind is FailureKind.HOPS
    assert error.is_local_limit
    assert not fake.calls(FIND)


async def test_bandwidth_is_kept_to(fake: FakeServer) -> None:
    data = noise(1_000_000)
    digest = fake.holds(data)
    clock = SleepLog()
    async with connected(fake.address, clock, bandwidth_bytes_s=100_000) as here:
        assert await read(here.store, digest) == data
    assert 9 <= sum(clock.slept_s) <= 11


@pytest.mark.parametrize("text", ["line\nbreak\x1b[31m", "x" * 100_000])
async def test_a18_what_a_remote_writes_is_made_safe_to_show(
    fake: FakeServer, here: Here, text: str
) -> None:
    fake.does[FIND] = fails(grpc.StatusCode.INTERNAL, text[:4000])
    message = str(await fails_with(here))
    assert message.isprintable()
    assert len(message) < 500
