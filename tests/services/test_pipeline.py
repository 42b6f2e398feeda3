"""What every call passes through, driven by a transport that is no protocol's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from federation.access.access import KeysOutdated, SameForAll
from federation.access.incoming_call import IncomingCall
from federation.access.rights import ANONYMOUS, Rights, Role
from federation.config.limits import LiveLimits
from federation.core import hops, uses
from federation.core.clock import ManualClock
from federation.core.digest import EMPTY
from federation.core.errors import BlobNotFound, NotAuthenticated
from federation.core.hops import Hops
from federation.core.memory_budget import MemoryBudget
from federation.core.uses import Use
from federation.observability.metrics import Metrics
from federation.services.acknowledge import Acknowledge
from federation.services.call import Call
from federation.services.method import (
    AT_ONCE_REQUEST,
    SMALL_ANSWER,
    BothStreams,
    ClientStream,
    Method,
    ServerStream,
    Unary,
)
from federation.services.pipeline import Pipeline
from federation.services.quotas import CallerQuotas
from federation.services.request_stream import RequestStream
from federation.services.runtime import Runtime
from federation.services.status_codes import CallStatus, StatusCode
from tests.support.samples import sample_value
from tests.support.transport import PEER, FakeConnections, FakeTransport

NAME = "a.Face/Method"


class Bench:
    """One listener, and the calls that its handlers saw."""

    def __init__(
        self, role: Role | None = Role.ADMIN, identity: str = "somebody", **limits: Any
    ) -> None:
        self.metrics = Metrics()
        self.limits = LiveLimits.model_validate(limits)
        self.clock = ManualClock()
        self.connections = FakeConnections()
        self.runtime = Runtime(
            self.metrics, self.limits, self.clock, SameForAll(Rights(identity, role)),
            MemoryBudget(self.limits.buffer_memory), self.connections,
            quotas=CallerQuotas(self.limits, self.clock, self.metrics),
        )  # fmt: skip
        self.seen: list[tuple[Call, Hops, Use]] = []
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def echo(self, request: bytes, call: Call) -> bytes:
        self.seen.append((call, hops.current(), uses.current()))
        self.started.set()
        await self.go_on.wait()
        return request

    async def join(self, requests: RequestStream, call: Call) -> bytes:
        parts = []
        while (part := await requests.next(60)) is not None:
            parts.append(part)
        return b"".join(parts)

    async def split(self, request: bytes, call: Call) -> AsyncGenerator[bytes, None]:
        for each in request:
            yield bytes((each,))

    async def double(self, requests: RequestStream, call: Call) -> AsyncGenerator[bytes, None]:
        while (part := await requests.next(60)) is not None:
            yield part * 2

    async def run(
        self, method: Method, *messages: bytes, transport: FakeTransport | None = None
    ) -> bytes | CallStatus:
        """Run a call in a task of its own, as whoever serves a protocol does."""
        pipeline = Pipeline(NAME, method, self.runtime)
        transport = transport or FakeTransport(PEER, *messages)
        answer = await asyncio.get_running_loop().create_task(pipeline.run(transport))
        await asyncio.sleep(0)  # the end of its task is noted after that
        return answer

    def counted(self, name: str, **labels: str) -> float:
        return sample_value(self.metrics, f"federation_{name}", labels)

    def ended(self, code: StatusCode) -> float:
        return self.counted("requests_total", method=NAME, code=code.name)


def status(answer: bytes | CallStatus) -> CallStatus:
    assert isinstance(answer, CallStatus), answer
    return answer


@pytest.fixture(params=["unary", "client stream", "server stream", "both streams"])
def kind(request: pytest.FixtureRequest) -> Callable[[Bench], Method]:
    made: dict[str, Callable[[Bench], Method]] = {
        "unary": lambda bench: Unary(bench.echo),
        "client stream": lambda bench: ClientStream(bench.join),
        "server stream": lambda bench: ServerStream(bench.split),
        "both streams": lambda bench: BothStreams(bench.double),
    }
    return made[request.param]


async def test_each_kind_of_method_is_served_and_counted(kind: Callable[[Bench], Method]) -> None:
    bench = Bench()
    transport = FakeTransport(PEER, b"ab")
    method = kind(bench)
    answer = await bench.run(method, transport=transport)
    sent = {Unary: [], ClientStream: [], ServerStream: [b"a", b"b"], BothStreams: [b"abab"]}
    assert (answer, transport.sent) == (b"" if sent[type(method)] else b"ab", sent[type(method)])
    assert bench.ended(StatusCode.OK) == 1
    assert (bench.runtime.calls.count, bench.counted("requests_running")) == (0, 0)
    assert bench.runtime.budget.used_bytes == 0


async def test_a_caller_without_the_right_is_refused_before_a_message_is_read() -> None:
    bench = Bench(Role.PULL)
    transport = FakeTransport(PEER, b"x")
    with capture_logs() as logs:
        refused = status(await bench.run(Unary(bench.echo, writes=True), transport=transport))
    assert refused.code is StatusCode.PERMISSION_DENIED
    assert await transport.read() == b"x"
    assert bench.ended(StatusCode.PERMISSION_DENIED) == 1
    assert [line["identity"] for line in logs if line["event"] == "client_refused"] == ["somebody"]


async def test_an_error_becomes_its_status_and_a_bug_tells_nothing() -> None:
    bench = Bench()
    error: Exception = BlobNotFound(EMPTY)

    async def fail(_request: bytes, _call: Call) -> bytes:
        raise error

    assert await bench.run(Unary(fail), b"") == (StatusCode.NOT_FOUND, str(error))
    error = KeyError("secret")
    failed = status(await bench.run(Unary(fail), b""))
    assert failed.code is StatusCode.INTERNAL
    assert "secret" not in failed.message


async def test_a_caller_is_known_by_identity_or_by_address() -> None:
    for identity, caller in (("somebody", "somebody"), (ANONYMOUS, "address 10.0.0.1")):
        bench = Bench(identity=identity)
        await bench.run(Unary(bench.echo), b"")
        assert bench.seen[0][0].caller == caller


async def test_hops_come_from_the_headers_and_replication_leases() -> None:
    bench = Bench()
    heard: list[str] = []
    bench.runtime.heard_from = heard.append
    headers = hops.headers(hops.of_replication(("far", "near")))
    await bench.run(Unary(bench.echo), transport=FakeTransport(PEER, b"", headers=headers))
    await bench.run(Unary(bench.echo), b"")
    (_, replicated, lease), (_, plain, used) = bench.seen
    assert (replicated.via, lease, heard) == (("far", "near"), Use.LEASE, ["near"])
    assert (plain, used) == (hops.NOWHERE, Use.CLIENT)


async def test_calls_above_the_limit_are_refused_and_never_run() -> None:
    bench = Bench(streams=1)
    bench.go_on.clear()
    running = asyncio.ensure_future(bench.run(Unary(bench.echo), b""))
    await bench.started.wait()
    refused = status(await bench.run(Unary(bench.echo), b""))
    assert (refused.code, len(bench.seen)) == (StatusCode.RESOURCE_EXHAUSTED, 1)
    bench.go_on.set()
    assert await running == b""
    assert await bench.run(Unary(bench.echo), b"again") == b"again"


async def test_a_handler_that_takes_too_long_is_ended() -> None:
    bench = Bench(request_time=5)
    bench.go_on.clear()
    running = asyncio.ensure_future(bench.run(Unary(bench.echo), b""))
    await bench.started.wait()
    bench.clock.advance(6)
    assert status(await running).code is StatusCode.DEADLINE_EXCEEDED


async def test_a_caller_that_sends_no_message_is_ended() -> None:
    bench = Bench(first_message=5)
    transport = FakeTransport(silent=True)
    running = asyncio.ensure_future(bench.run(Unary(bench.echo), transport=transport))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.clock.advance(6)
    assert await running == b""  # its status was sent by abort()
    assert transport.aborted is not None
    assert transport.aborted.code is StatusCode.DEADLINE_EXCEEDED
    assert bench.ended(StatusCode.DEADLINE_EXCEEDED) == 1


async def test_a_reader_that_takes_nothing_loses_its_connection() -> None:
    bench = Bench(stall=5)
    transport = FakeTransport(PEER, b"ab")
    bench.connections.calls.append(transport)
    transport.takes.clear()
    running = asyncio.ensure_future(bench.run(ServerStream(bench.split), transport=transport))
    for _ in range(5):
        await asyncio.sleep(0)
    bench.clock.advance(60)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.connections.broken == [PEER]
    assert bench.ended(StatusCode.DEADLINE_EXCEEDED) == 1


async def test_a_caller_that_leaves_is_no_error() -> None:
    bench = Bench()
    transport = FakeTransport(PEER, b"ab")
    transport.takes.clear()
    running = asyncio.ensure_future(bench.run(ServerStream(bench.split), transport=transport))
    for _ in range(5):
        await asyncio.sleep(0)
    transport.leave()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.ended(StatusCode.CANCELLED) == 1


async def test_a_quota_holds_a_writing_call_back() -> None:
    bench = Bench(uploads_per_caller=1)
    bench.go_on.clear()
    writing = Unary(bench.echo, writes=True)
    calls = [asyncio.ensure_future(bench.run(writing, b"")) for _ in range(2)]
    await bench.started.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.seen) == 1
    assert bench.counted("callers_held_back_total", by="uploads") == 1
    bench.go_on.set()
    assert await asyncio.gather(*calls) == [b"", b""]


async def test_a_write_waits_for_its_acknowledgement_and_a_replicated_one_does_not() -> None:
    bench = Bench()
    waited: list[str] = []

    class Noting(Acknowledge):
        def __init__(self) -> None:
            pass

        async def wait(self) -> None:
            waited.append("peers")

    bench.runtime.acknowledge = Noting()
    await bench.run(Unary(bench.echo, writes=True), b"")
    await bench.run(Unary(bench.echo), b"")
    assert waited == ["peers"]
    headers = hops.headers(hops.of_replication(("far",)))
    transport = FakeTransport(PEER, b"", headers=headers)
    await bench.run(Unary(bench.echo, writes=True), transport=transport)
    assert waited == ["peers"]


async def test_a_push_is_audited() -> None:
    bench = Bench()
    bench.runtime.audit = True

    async def push(request: bytes, call: Call) -> bytes:
        call.check_push("here")
        call.accepted("here", size=len(request))
        return b""

    with capture_logs() as logs:
        await bench.run(Unary(push, writes=True), b"abc")
    (line,) = [line for line in logs if line["event"] == "push_accepted"]
    facts = {name: line[name] for name in ("identity", "peer", "method", "instance", "size")}
    assert facts == {
        "identity": "somebody", "peer": PEER, "method": NAME, "instance": "here", "size": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("size", "waits"), [(None, True), (2**16, False)])
async def test_a_message_whose_size_is_known_takes_no_more_room_than_that(
    size: int | None, waits: bool
) -> None:
    bench = Bench(buffer_memory=2**23, message=2**22 + 2**16)
    calls = bench.runtime.calls
    calls.incoming.adjust("another", calls.incoming.total_bytes - 2**20)
    transport = FakeTransport(PEER, bytes(2**16))
    transport.known_size = size
    running = asyncio.ensure_future(bench.run(Unary(bench.echo), transport=transport))
    for _ in range(5):
        await asyncio.sleep(0)
    assert running.done() is not waits
    calls.incoming.adjust("another", -(calls.incoming.total_bytes - 2**20))
    assert await running == bytes(2**16)


async def test_answers_larger_than_their_room_do_not_wait_for_each_other() -> None:
    bench = Bench(buffer_memory=2**23)  # 4 MiB of it for answers, and half of that for one caller
    sizes, both_hold = [2**20, 2**20 + 2**16], asyncio.Event()

    async def answer(_request: bytes, call: Call) -> bytes:
        await call.make_room(sizes[0])
        bench.seen.append((call, hops.current(), uses.current()))
        if len(bench.seen) == 2:
            both_hold.set()
        await both_hold.wait()
        return bytes(sizes[1])

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(bench.run(Unary(answer), b"") for _ in range(2)))
    assert answers == [bytes(sizes[1])] * 2
    assert bench.runtime.calls.outgoing.used_bytes == 0


class AtOnceBench(Bench):
    """Its method answers at once."""

    def __init__(self, *args: Any, **limits: Any) -> None:
        super().__init__(*args, **limits)
        self.error: Exception | None = None
        self.answer: bytes | None = None

    def now(self, request: bytes, call: Call) -> bytes | None:
        self.seen.append((call, hops.current(), uses.current()))
        if self.error is not None:
            raise self.error
        return request if self.answer is None else self.answer

    def at_once(
        self, request: bytes, headers: list[tuple[str, str]] | None = None, *, method: Any = Unary
    ) -> bytes | CallStatus | None:
        pipeline = Pipeline(NAME, method(self.echo, at_once=self.now), self.runtime)
        assert pipeline.may_answer_at_once
        return pipeline.answer_at_once(FakeTransport(headers=headers or ()), request)


@pytest.mark.parametrize("method", [Unary, ServerStream])
async def test_a_call_that_waits_for_nothing_is_run_and_counted_at_once(method: Any) -> None:
    bench = AtOnceBench()
    assert bench.at_once(b"ab", method=method) == b"ab"
    assert bench.ended(StatusCode.OK) == 1
    ((call, passed, use),) = bench.seen
    assert (call.caller, call.peer, passed, use) == ("somebody", PEER, hops.NOWHERE, Use.CLIENT)
    assert (bench.runtime.calls.count, bench.runtime.budget.used_bytes) == (0, 0)


async def test_a_call_at_once_needs_the_rights_of_any_other() -> None:
    bench = AtOnceBench(None)
    with capture_logs() as logs:
        refused = bench.at_once(b"")
    assert isinstance(refused, CallStatus)
    assert (refused.code, bench.seen) == (StatusCode.PERMISSION_DENIED, [])
    assert bench.ended(StatusCode.PERMISSION_DENIED) == 1
    assert [line["event"] for line in logs].count("client_refused") == 1


async def test_an_error_at_once_becomes_its_status() -> None:
    bench = AtOnceBench()
    bench.error = BlobNotFound(EMPTY)
    assert bench.at_once(b"") == (StatusCode.NOT_FOUND, str(bench.error))
    bench.error = KeyError("secret")
    failed = bench.at_once(b"")
    assert isinstance(failed, CallStatus)
    assert (failed.code, "secret" in failed.message) == (StatusCode.INTERNAL, False)
    assert (bench.ended(StatusCode.NOT_FOUND), bench.ended(StatusCode.INTERNAL)) == (1, 1)


async def test_a_call_with_hops_or_a_quota_or_at_a_limit_is_left_to_a_task() -> None:
    bench = AtOnceBench()
    assert bench.at_once(b"", hops.headers(hops.of_replication(("far",)))) is None
    bench = AtOnceBench(bandwidth_per_caller=2**20)
    assert bench.at_once(b"") is None
    bench = AtOnceBench(streams=1)
    bench.go_on.clear()
    running = asyncio.ensure_future(bench.run(Unary(bench.echo), b""))
    await bench.started.wait()
    assert bench.at_once(b"") is None
    bench.go_on.set()
    await running
    assert bench.at_once(b"x") == b"x"


async def test_what_is_large_is_left_to_a_task_and_counts_nowhere() -> None:
    bench = AtOnceBench()
    assert bench.at_once(bytes(AT_ONCE_REQUEST + 1)) is None
    assert bench.seen == []
    bench.answer = bytes(SMALL_ANSWER + 1)
    assert bench.at_once(b"") is None
    assert bench.ended(StatusCode.OK) == 0


class NewKey:
    """Knows the caller once keys were fetched."""

    def __init__(self, *, helps: bool) -> None:
        self.renewals = 0
        self._helps = helps

    async def renew(self) -> None:
        self.renewals += 1

    def rights_of(self, _call: IncomingCall) -> Rights:
        if not self.renewals:
            raise KeysOutdated(self.renew)
        if not self._helps:
            raise NotAuthenticated("the token is signed with a key that is not known here")
        return Rights("ci", Role.PUSH)

    admit = rights_of


async def test_a_call_waits_once_for_keys_that_its_token_may_need() -> None:
    bench = AtOnceBench()
    bench.runtime.access = access = NewKey(helps=True)
    assert bench.at_once(b"ab") is None
    assert (access.renewals, bench.seen) == (0, [])
    assert await bench.run(Unary(bench.echo), b"ab") == b"ab"
    assert access.renewals == 1
    assert bench.at_once(b"ab") == b"ab"


async def test_a_call_whose_key_stays_unknown_is_refused() -> None:
    bench = Bench()
    bench.runtime.access = access = NewKey(helps=False)
    refused = status(await bench.run(Unary(bench.echo), b"ab"))
    assert (refused.code, access.renewals) == (StatusCode.UNAUTHENTICATED, 1)
    assert bench.ended(StatusCode.UNAUTHENTICATED) == 1
