"""What each transport does on the wire, seen by a client that is no gRPC library (hyper-h2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from federation.config.model import LimitsConfig
from tests.attacks.raw import RawConnection, framed
from tests.contracts.server_transport.conftest import MIB, Site, until

ECHO, JOIN, MANY, EARLY = (f"test.Interop/{name}" for name in ("Echo", "Join", "Many", "Early"))
OK, INVALID, LATE, EXHAUSTED, UNIMPLEMENTED = "0", "3", "4", "8", "12"


async def there(work: Callable[[], object]) -> None:
    """Do what blocks in a thread, as the server runs here."""
    await asyncio.to_thread(work)


@contextmanager
def raw(site: Site, window_bytes: int | None = None) -> Iterator[RawConnection]:
    with RawConnection(site.address, window_bytes=window_bytes) as connection:
        yield connection


async def test_a_call_that_is_refused_ends_without_its_message(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            stream = client.call("test.Interop/None")
            client.flush()
            client.wait_for(1)
            assert client.statuses == {stream: UNIMPLEMENTED}

    await there(work)


async def test_a_refusal_reaches_a_client_that_sends_on(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            stream = client.call("test.Interop/None")
            client.send(stream, framed(bytes(10 * MIB)), patience_s=0.2)
            client.wait_for(1)
            assert client.statuses == {stream: UNIMPLEMENTED}

    await there(work)
    await site.until_quiet()


async def test_a_message_in_frames_of_one_byte(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            stream = client.call(ECHO)
            data = framed(bytes(300))
            for at in range(len(data)):
                client.send(stream, data[at : at + 1], end=at == len(data) - 1)
            client.wait_for(1)
            assert client.statuses == {stream: OK}
            assert client.received == {stream: len(data)}

    await there(work)


async def test_many_messages_in_one_frame(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            stream = client.call(JOIN)
            client.send(stream, framed(b"x") * 2000, end=True)
            client.wait_for(1)
            assert client.received == {stream: len(framed(b"2000"))}

    await there(work)


@pytest.mark.parametrize("limits", [LimitsConfig(first_message=0.5)])
async def test_a_call_whose_message_does_not_come_is_late(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            silent, half = client.call(ECHO), client.call(ECHO)
            client.send(half, framed(bytes(1000))[:-1])
            client.wait_for(2)
            assert client.statuses == {silent: LATE, half: LATE}

    await there(work)
    await site.until_quiet()


async def test_a_deadline_that_is_over_already(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            stream = client.call("test.Interop/Sleep", [("grpc-timeout", "1n")])
            client.send(stream, framed(b""), end=True)
            client.wait_for(1)
            assert client.statuses[stream] in {LATE, "reset"}

    await there(work)
    await site.until_quiet()


async def test_a_reader_that_takes_nothing_holds_little(site: Site) -> None:
    with raw(site, window_bytes=0) as client:
        for _ in range(20):
            client.unary(MANY, b"1000000 " * 10)
        await asyncio.to_thread(client.flush)
        await until(lambda: site.runtime.calls.count == 20)
        assert site.budget.used_bytes <= site.budget.total_bytes
    await site.until_quiet()


async def test_a_client_that_vanishes_ends_its_calls(site: Site) -> None:
    with raw(site) as client:
        for _ in range(10):
            client.send(client.call(JOIN), framed(bytes(1000)) * 3)
        await until(lambda: site.runtime.calls.count == 10)
    await site.until_quiet()


async def test_a_reset_stream_ends_its_call_and_no_other(site: Site) -> None:
    with raw(site) as client:
        gone, stays = client.call(JOIN), client.call(JOIN)
        for stream in (gone, stays):
            client.send(stream, framed(b"123"))
        await until(lambda: site.runtime.calls.count == 2)
        client.reset(gone)
        await until(lambda: site.runtime.calls.count == 1)
        await there(lambda: client.send(stays, framed(b"45"), end=True))
        await there(lambda: client.wait_for(1))
        assert client.received == {stays: len(framed(b"5"))}
        assert client.statuses[stays] == OK


async def test_what_a_client_sends_behind_an_early_answer_is_dropped(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            for _ in range(20):
                stream = client.call(EARLY)
                client.send(stream, framed(b"x") + framed(bytes(MIB)), patience_s=0.2)
                client.wait_for(1)
            assert set(client.statuses.values()) == {OK}

    await there(work)
    await site.until_quiet()


async def test_a_message_above_the_limit_is_refused_by_its_length(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            stream = client.call(ECHO)
            client.send(stream, framed(bytes(site.limits.message + 1))[:100])
            client.wait_for(1)
            assert client.statuses == {stream: EXHAUSTED}

    await there(work)
    await site.until_quiet()


async def test_garbage_for_headers_is_answered_or_refused(site: Site) -> None:
    def work() -> None:
        with raw(site) as client:
            for name, value in (
                ("grpc-timeout", "soon"),
                ("x-bin", "$$$"),
                ("grpc-encoding", "none-such"),
                ("x", "y" * 12_000),
            ):
                client.unary(ECHO, b"x", [(name, value)])
            client.flush()
            client.wait_for(4)
            client.unary(ECHO, b"x")
            client.flush()
            client.wait_for(5)
            assert list(client.statuses.values())[-1] == OK

    await there(work)
    await site.until_quiet()
