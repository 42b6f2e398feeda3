"""A node binds everything or nothing, tells the truth about itself, and ends in time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Self

import grpc
import pytest

from federation.access.live_tls import LiveTls
from federation.access.tls import load_pair
from federation.config import model
from federation.config.model import LimitsConfig, ListenerConfig
from federation.core.clock import SystemClock
from federation.core.errors import CannotStart
from federation.observability.metrics import Metrics
from federation.server.http import HttpServer, Pages
from federation.server.listener import GrpcServer
from federation.server.node import Node, Port
from federation.server.readiness import Readiness
from tests.support.certificates import self_signed
from tests.support.samples import sample_value

SERVICE = "test.Echo"


class FakeStorage:
    def __init__(self) -> None:
        self.announced: dict[str, object] | None = None
        self.closed = 0
        self.state = (True, "")

    def announce(self, **facts: object) -> None:
        self.announced = facts

    def health(self) -> tuple[bool, str]:
        return self.state

    async def close(self) -> None:
        self.closed += 1


class FakeHealth:
    def __init__(self) -> None:
        self.told: list[bool] = []

    async def set(self, serving: bool) -> None:
        self.told.append(serving)

    def end(self) -> None:
        self.told.append(False)


class Echo:
    """Answers at once, or when released."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False

    async def now(self, request: bytes, context: object) -> bytes:
        return request

    async def later(self, request: bytes, context: object) -> bytes:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return request

    def handlers(self) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
        methods = {
            "Now": grpc.unary_unary_rpc_method_handler(self.now),
            "Later": grpc.unary_unary_rpc_method_handler(self.later),
        }
        return [grpc.method_handlers_generic_handler(SERVICE, methods)]


class Bench:
    """A node of fakes around real servers."""

    def __init__(
        self,
        *addresses: str,
        http: str | None = "127.0.0.1:0",
        drain_s: float = 10.0,
        limits: LimitsConfig | None = None,
        tls: LiveTls | None = None,
    ) -> None:
        self.storage = FakeStorage()
        self.followed: list[model.Config] = []
        self.health = FakeHealth()
        self.echo = Echo()
        self.metrics = Metrics()
        self.readiness = Readiness(self.storage.health)
        pages = Pages(self.metrics, self.readiness, dict)
        limits = limits or LimitsConfig(drain=drain_s)
        self.ports = [
            Port(
                GrpcServer(ListenerConfig(address=address), limits, self.echo.handlers(), tls=tls),
                tls,
                self.health,
            )
            for address in addresses or ("127.0.0.1:0",)
        ]
        self.node = Node(
            ports=self.ports,
            http=HttpServer(http, pages.answer) if http else None,
            closers=[self.storage.close],
            announce=self.storage.announce,
            readiness=self.readiness,
            metrics=self.metrics,
            clock=SystemClock(),
            limits=limits,
            apply_config=self.followed.append,
        )

    async def __aenter__(self) -> Self:
        await self.node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.storage.closed:
            await self.node.stop()

    def channel(self, at: int = 0) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.node.listeners[at])


def call(
    channel: grpc.aio.Channel, method: str = "Now", timeout_s: float = 60
) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
    return channel.unary_unary(f"/{SERVICE}/{method}", None, None)(b"x", timeout=timeout_s)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def until_refused(channel: grpc.aio.Channel) -> None:
    """Call until it is UNAVAILABLE: the listener closes a moment after health says so.

    A call that comes in that moment is served, or, by grpcio, cancelled or not answered at all.
    """
    between = {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
    async with asyncio.timeout(60):
        while (code := await call(channel, timeout_s=5).code()) in between:
            pass
    assert code is grpc.StatusCode.UNAVAILABLE


def taken_port() -> tuple[socket.socket, str]:
    holder = socket.create_server(("127.0.0.1", 0))
    return holder, f"127.0.0.1:{holder.getsockname()[1]}"


async def test_all_ports_answer_and_are_announced_with_their_real_numbers() -> None:
    async with Bench("127.0.0.1:0", "localhost:0", "[::]:0") as bench:
        listeners, http = bench.node.listeners, bench.node.http
        assert http is not None
        assert bench.storage.announced == {"listeners": listeners, "http": http}
        assert [address.rpartition(":")[0] for address in listeners] == [
            "127.0.0.1",
            "localhost",
            "[::]",
        ]
        assert not any(address.endswith(":0") for address in [*listeners, http])
        for at, address in enumerate(listeners):
            port = bench.ports[at].server.address.port
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                assert await call(channel) == b"x", address
        assert bench.health.told == [True, True, True]
    assert bench.storage.closed == 1


@pytest.mark.parametrize("which", ["first", "last", "http"])
async def test_o17_one_taken_port_leaves_nothing_running(which: str) -> None:
    holder, taken = taken_port()
    free = "127.0.0.1:0"
    with holder:
        addresses = {"first": (taken, free), "last": (free, taken), "http": (free, free)}[which]
        bench = Bench(*addresses, http=taken if which == "http" else free)
        refused = f"cannot listen on {taken}: Address already in use; stop the program"
        with pytest.raises(CannotStart, match=refused):
            await bench.node.start()
        assert bench.storage.announced is None
        assert bench.storage.closed == 1
        for address in bench.node.listeners:
            if address not in (taken, free):
                host, _, port = address.rpartition(":")
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(host, int(port))


async def test_o17_a_name_is_bound_on_all_its_addresses_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def both(*_args: object, **_kwargs: object) -> list[str]:
        return ["::1", "127.0.0.1"]

    monkeypatch.setattr("federation.server.listener.resolve", both)
    holder, taken = taken_port()
    with holder:
        bench = Bench(f"localhost:{taken.rpartition(':')[2]}")
        with pytest.raises(CannotStart, match=f"cannot listen on {taken}"):
            await bench.node.start()


async def test_o17_two_nodes_do_not_share_a_port() -> None:
    async with Bench() as bench:
        second = Bench(bench.node.listeners[0])
        with pytest.raises(CannotStart, match="Address already in use"):
            await second.node.start()


async def test_a_name_that_stands_for_nothing_is_an_error() -> None:
    bench = Bench("nothing.invalid:0")
    with pytest.raises(CannotStart, match=r"cannot listen on nothing\.invalid:0"):
        await bench.node.start()


async def test_o01_running_calls_finish_and_new_ones_are_refused() -> None:
    async with Bench() as bench, bench.channel() as channel, bench.channel() as other:
        running = call(channel, "Later")
        await bench.echo.entered.wait()
        stopping = asyncio.ensure_future(bench.node.stop())
        await until(lambda: not bench.health.told[-1])
        await until_refused(other)
        assert bench.storage.closed == 0
        assert bench.readiness.verdict() == (False, "draining")
        bench.echo.release.set()
        assert await running == b"x"
        await stopping
    assert bench.storage.closed == 1


async def test_o02_a_call_that_does_not_end_is_cancelled_at_the_limit() -> None:
    async with Bench(drain_s=0.2) as bench, bench.channel() as channel:
        running = call(channel, "Later")
        await bench.echo.entered.wait()
        await bench.node.stop()
        assert bench.echo.cancelled
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await running
        assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_trouble_in_storage_reaches_health_and_readiness() -> None:
    async with Bench() as bench:
        bench.storage.state = (False, "the catalogue is damaged")
        await until(lambda: not bench.health.told[-1])
        assert bench.readiness.verdict() == (False, "the catalogue is damaged")
        bench.storage.state = (True, "")
        await until(lambda: bench.health.told[-1])


async def test_the_lag_of_the_event_loop_is_measured() -> None:
    async with Bench() as bench:
        count = "federation_event_loop_lag_seconds_count"
        await until(lambda: sample_value(bench.metrics, count))


async def test_messages_above_the_limit_are_refused() -> None:
    limits = LimitsConfig.model_validate({"message": "5M"})
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with Bench(limits=limits) as bench:
        address = bench.node.listeners[0]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            echo = channel.unary_unary(f"/{SERVICE}/Now", None, None)
            assert len(await echo(b"x" * 5 * 2**20)) == 5 * 2**20
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await echo(b"x" * (5 * 2**20 + 1))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_tls_clients_that_trust_the_certificate_are_served(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    tls = model.TlsConfig(server_cert=files.certificate, server_key=files.key)
    live = LiveTls(tls, "here", load_pair(tls, "here"), SystemClock())
    async with Bench("localhost:0", tls=live) as bench:
        address = bench.node.listeners[0]
        trusted = grpc.ssl_channel_credentials(files.certificate.read_bytes())
        async with grpc.aio.secure_channel(address, trusted) as channel:
            assert await call(channel) == b"x"
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
