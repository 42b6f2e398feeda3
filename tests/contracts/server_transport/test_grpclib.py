"""Another implementation of gRPC (grpclib, over hyper-h2) is served by each transport as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpclib.client import (
    Channel,
    StreamStreamMethod,
    StreamUnaryMethod,
    UnaryStreamMethod,
    UnaryUnaryMethod,
)
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from tests.contracts.server_transport.conftest import MIB, Site


class Raw(CodecBase):
    """Messages are bytes."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, _message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, _message_type: object) -> bytes:
        return data


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Channel]:
    channel = Channel("127.0.0.1", site.port, codec=Raw())
    try:
        yield channel
    finally:
        channel.close()


def path(method: str) -> str:
    return f"/test.Interop/{method}"


@pytest.mark.parametrize("size", [0, 1, 70_000, 2 * MIB])
async def test_unary(site: Site, size: int) -> None:
    async with connected(site) as channel:
        echo = UnaryUnaryMethod(channel, path("Echo"), bytes, bytes)
        assert await echo(bytes(size)) == bytes(size)
        answers = await asyncio.gather(*(echo(b"%d" % at) for at in range(50)))
        assert answers == [b"%d" % at for at in range(50)]
    await site.until_quiet()


async def test_streams(site: Site) -> None:
    async with connected(site) as channel:
        join = StreamUnaryMethod(channel, path("Join"), bytes, bytes)
        assert await join([bytes(27_182), b"", bytes(MIB)]) == b"%d" % (27_182 + MIB)
        many = UnaryStreamMethod(channel, path("Many"), bytes, bytes)
        assert [len(each) for each in await many(b"31415 9 2653")] == [31_415, 9, 2653]
        each = StreamStreamMethod(channel, path("Each"), bytes, bytes)
        assert [len(one) for one in await each([b"5", b"70000"])] == [5, 70_000]
    await site.until_quiet()


async def test_statuses(site: Site) -> None:
    async with connected(site) as channel:
        for method, message, status in (
            ("Fail", b"blob", Status.NOT_FOUND),
            ("Fail", b"", Status.INVALID_ARGUMENT),
            ("None", b"", Status.UNIMPLEMENTED),
            ("Small", bytes(1001), Status.INVALID_ARGUMENT),
        ):
            with pytest.raises(GRPCError) as caught:
                await UnaryUnaryMethod(channel, path(method), bytes, bytes)(message)
            assert caught.value.status is status


async def test_a_deadline(site: Site) -> None:
    async with connected(site) as channel:
        sleep = UnaryUnaryMethod(channel, path("Sleep"), bytes, bytes)
        while not site.service.entered.is_set():  # the time may be up before it is there
            with pytest.raises((TimeoutError, GRPCError)):
                await sleep(b"", timeout=0.3)
        async with asyncio.timeout(60):
            await site.service.cancelled.wait()
    await site.until_quiet()


async def test_headers(site: Site) -> None:
    async with connected(site) as channel:
        method = UnaryUnaryMethod(channel, path("Headers"), bytes, bytes)
        async with method.open(metadata=[("x-a", "1"), ("x-b-bin", b"\0\xff")]) as stream:
            await stream.send_message(b"x", end=True)
            assert await stream.recv_message() == b"x"
            assert stream.initial_metadata is not None
            assert stream.initial_metadata.getall("x-answer") == ["first", "second"]
    sent = dict(site.service.calls[0].transport.headers)
    assert (sent["x-a"], sent["x-b-bin"]) == ("1", b"\0\xff")
