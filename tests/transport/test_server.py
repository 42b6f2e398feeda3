"""The server of one listener in this process: kinds of sockets, drain, and its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from federation.access.access import SameForAll
from federation.access.rights import everybody
from federation.config.model import LimitsConfig
from federation.config.types import Address
from federation.core.clock import Clock, SystemClock
from federation.core.errors import ConfigError
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.server import server_factory
from federation.server.addresses import listen
from federation.services.call import Call
from federation.services.method import ClientStream, Method, ServerStream, Unary
from federation.services.open_connections import OpenConnections
from federation.services.request_stream import RequestStream
from federation.services.runtime import Runtime
from federation.transport.connection import Http2Connection
from federation.transport.server import Http2Server, routes
from tests.attacks.raw import RawConnection, framed


class Waits:
    """A service whose call goes on until it is released."""

    name = "test.Waits"

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.peers: list[str] = []

    def methods(self) -> Mapping[str, Method]:
        return {
            "Echo": Unary(self.echo),
            "Wait": Unary(self.wait),
            "Join": ClientStream(self.join),
            "Much": ServerStream(self.much, paced=True),
        }

    async def echo(self, request: bytes, call: Call) -> bytes:
        self.peers.append(call.peer)
        return request

    async def wait(self, request: bytes, _call: Call) -> bytes:
        self.entered.set()
        await self.release.wait()
        return request

    async def join(self, requests: RequestStream, _call: Call) -> bytes:
        while await requests.next(60) is not None:
            pass
        return b"all"

    async def much(self, _request: bytes, _call: Call) -> AsyncGenerator[bytes, None]:
        for _ in range(50):  # more than the buffers of two sockets hold
            yield bytes(2**20)


class Site:
    def __init__(self, limits: LimitsConfig | None = None, clock: Clock | None = None) -> None:
        self.limits = limits or LimitsConfig()
        self.service = self.make_service()
        self.connections: OpenConnections[Http2Connection] = OpenConnections()
        self.budget = MemoryBudget(self.limits.buffer_memory)
        self.runtime = Runtime(
            Metrics(),
            self.limits,
            clock or SystemClock(),
            SameForAll(everybody(push=True)),
            self.budget,
            self.connections,
        )
        self.server = Http2Server(
            routes([self.service], self.runtime),
            self.limits,
            self.runtime.clock,
            self.runtime.hits,
            self.budget,
            self.connections,
        )

    def make_service(self) -> Waits:
        return Waits()


@asynccontextmanager
async def channel_to(target: str) -> AsyncIterator[grpc.aio.Channel]:
    channel = grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
    try:
        yield channel
    finally:
        await channel.close(None)


def call(channel: grpc.aio.Channel, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary(f"/test.Waits/{method}", None, None)


async def on_loopback(site: Site) -> str:
    listening = listen(Address("127.0.0.1", 0))
    await site.server.start([listening])
    return f"127.0.0.1:{listening.getsockname()[1]}"


async def test_a_unix_socket_is_served_and_its_callers_are_told_apart(tmp_path: Path) -> None:
    site = Site()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.listen()
    listening.setblocking(False)
    await site.server.start([listening])
    async with (
        channel_to(f"unix:{tmp_path}/socket") as one,
        channel_to(f"unix:{tmp_path}/socket") as two,
    ):
        assert await call(one, "Echo")(b"x") == b"x"
        assert await call(two, "Echo")(b"y") == b"y"
    assert len(set(site.service.peers)) == 2
    await site.server.stop(0)


async def test_several_sockets_are_one_listener() -> None:
    site = Site()
    sockets = [listen(Address("127.0.0.1", 0)), listen(Address("::1", 0))]
    ports = [each.getsockname()[1] for each in sockets]
    await site.server.start(sockets)
    for target in (f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}"):
        async with channel_to(target) as channel:
            assert await call(channel, "Echo")(b"x") == b"x"
    assert [each.partition(":")[0] for each in site.service.peers] == ["ipv4", "ipv6"]
    await site.server.stop(0)


async def _call_for_ever(channel: grpc.aio.Channel) -> None:
    async with asyncio.timeout(60):
        while True:
            await call(channel, "Echo")(b"x")


async def test_a_drain_waits_for_what_runs_and_takes_nothing_new() -> None:
    site = Site()
    address = await on_loopback(site)
    async with channel_to(address) as channel, channel_to(address) as idle:
        assert await call(idle, "Echo")(b"x") == b"x"
        running = asyncio.ensure_future(call(channel, "Wait")(b"done"))
        await site.service.entered.wait()
        stopping = asyncio.ensure_future(site.server.stop(60))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _call_for_ever(idle)  # a call is served until GOAWAY has come
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        site.service.release.set()
        assert await running == b"done"
        async with asyncio.timeout(60):
            await stopping
    assert site.connections.by_peer == {}


async def test_what_runs_when_the_time_is_over_ends_as_unavailable() -> None:
    site = Site()
    async with channel_to(await on_loopback(site)) as channel:
        running = asyncio.ensure_future(call(channel, "Wait")(b""))
        await site.service.entered.wait()
        await site.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await running
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert site.runtime.calls.count == 0


async def test_a_server_that_never_began_is_stopped_too() -> None:
    await Site().server.stop(1.0)


async def test_a_connection_that_is_broken_off_frees_what_its_calls_hold() -> None:
    site = Site()
    async with channel_to(await on_loopback(site)) as channel:
        running = asyncio.ensure_future(call(channel, "Wait")(bytes(1000)))
        await site.service.entered.wait()
        (peer,) = site.connections.by_peer
        await asyncio.to_thread(site.connections.break_off, peer)
        with suppress(grpc.aio.AioRpcError):
            await running
        async with asyncio.timeout(60):
            while site.runtime.calls.count or site.budget.used_bytes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await site.server.stop(0)


async def test_an_accepted_socket_waits_for_nothing_and_what_it_brings_is_known() -> None:
    site = Site()
    async with channel_to(await on_loopback(site)) as channel:
        await call(channel, "Echo")(bytes(10_000))
        ((peer, connection),) = site.connections.by_peer.items()
        assert connection._transport is not None
        accepted = connection._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert site.connections.received_from([peer, "ipv4:1.2.3.4:5"]) == {peer: 10_000 + 200}
    await site.server.stop(0)


def test_without_the_package_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    server_factory.check_installed("http2")
    monkeypatch.setattr(server_factory, "find_spec", lambda _name: None)
    server_factory.check_installed("grpcio")
    with pytest.raises(ConfigError) as refused:
        server_factory.check_installed("http2")
    assert "pip install 'federation-cache[http2]'" in str(refused.value)


async def test_a_call_that_ends_within_a_message_is_an_error() -> None:
    site = Site()
    with RawConnection(await on_loopback(site)) as client:
        streams = [client.call("test.Waits/Join"), client.call("test.Waits/Echo")]
        for stream in streams:
            client.send(stream, framed(bytes(1000))[:500], end=True)
        await asyncio.to_thread(client.wait_for, 2)
        assert [client.statuses[each] for each in streams] == ["13", "13"]
    await site.server.stop(0)


async def test_what_the_socket_does_not_take_counts_in_the_budget() -> None:
    site = Site()
    address = await on_loopback(site)
    with RawConnection(address, window_bytes=2**30) as reader:
        reader.take_all()
        reader.unary("test.Waits/Much", b"")
        await asyncio.to_thread(reader.flush)
        async with asyncio.timeout(60):
            while not site.budget.used_bytes:  # noqa: ASYNC110 - the sockets fill
                await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        while site.budget.used_bytes or site.runtime.calls.count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await site.server.stop(0)
