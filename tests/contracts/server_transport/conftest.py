"""A service that does what gRPC's interop cases want, served by each transport in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import grpc
import pytest

from federation.access.access import SameForAll
from federation.access.rights import everybody
from federation.config.model import LimitsConfig
from federation.core.clock import SystemClock
from federation.core.digest import EMPTY
from federation.core.errors import BlobNotFound, EntryNotFound, InvalidRequest
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.method import BothStreams, ClientStream, Method, ServerStream, Unary
from federation.services.request_stream import RequestStream
from federation.services.runtime import Runtime
from federation.services.transport import Connections
from tests.support.transports import TRANSPORTS, serve_on_loopback

MIB = 2**20
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


class Interop:
    """Its messages are texts of numbers, or are echoed."""

    name = "test.Interop"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.requests: list[bytes] = []
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()

    def methods(self) -> Mapping[str, Method]:
        return {
            "Echo": Unary(self.echo),
            "Small": Unary(self.echo, request_max=1000),
            "Sleep": Unary(self.sleep),
            "Fail": Unary(self.fail),
            "Headers": Unary(self.headers),
            "Many": ServerStream(self.many),
            "Join": ClientStream(self.join),
            "Early": ClientStream(self.early),
            "Each": BothStreams(self.each),
        }

    async def echo(self, request: bytes, call: Call) -> bytes:
        self.calls.append(call)
        self.requests.append(request)
        return request

    async def sleep(self, _request: bytes, _call: Call) -> bytes:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"slept"

    async def fail(self, request: bytes, _call: Call) -> bytes:
        if request == b"blob":
            raise BlobNotFound(EMPTY)
        if request == b"entry":
            raise EntryNotFound(SPECIAL)
        raise InvalidRequest("100 % wrong")

    async def headers(self, request: bytes, call: Call) -> bytes:
        self.calls.append(call)
        await call.transport.send_headers([("x-answer", "first"), ("x-answer", "second")])
        return request

    async def many(self, request: bytes, _call: Call) -> AsyncGenerator[bytes, None]:
        try:
            for size in request.split():
                self.entered.set()
                yield bytes(int(size))
            if request.endswith(b"\t"):
                raise InvalidRequest("behind the messages")
        finally:
            self.cancelled.set()  # or over

    async def join(self, requests: RequestStream, _call: Call) -> bytes:
        self.entered.set()
        parts = []
        try:
            while (part := await requests.next(60)) is not None:
                parts.append(part)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"%d" % sum(map(len, parts))

    async def early(self, requests: RequestStream, _call: Call) -> bytes:
        await requests.next(60)
        return b"enough"

    async def each(self, requests: RequestStream, _call: Call) -> AsyncGenerator[bytes, None]:
        while (size := await requests.next(60)) is not None:
            yield bytes(int(size))


async def until(condition: Callable[[], bool]) -> None:
    """Return when this holds; fail after 60 s."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


@dataclass
class Site:
    """A served Interop, and a channel of grpcio's to it."""

    service: Interop
    channel: grpc.aio.Channel
    port: int
    budget: MemoryBudget
    runtime: Runtime
    stop: Callable[[float], Awaitable[object]]  # within so many seconds
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def unary(self, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        return self.channel.unary_unary(f"/test.Interop/{method}", None, None)

    async def until_quiet(self) -> None:
        """Return when no call runs and nothing is held of any."""
        await until(lambda: not self.runtime.calls.count and not self.budget.used_bytes)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def limits() -> LimitsConfig:
    return LimitsConfig()


@pytest.fixture
async def site(transport: str, limits: LimitsConfig) -> AsyncIterator[Site]:
    service, metrics, clock = Interop(), Metrics(), SystemClock()
    budget = MemoryBudget(limits.buffer_memory)
    access = SameForAll(everybody(push=True))

    def make_runtime(connections: Connections) -> Runtime:
        return Runtime(metrics, limits, clock, access, budget, connections)

    serving = await serve_on_loopback([service], make_runtime, transport)
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
    ]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{serving.port}", options=options)
    yield Site(service, channel, serving.port, budget, serving.runtime, serving.stop, limits)
    await channel.close(None)
    await serving.stop(0)
