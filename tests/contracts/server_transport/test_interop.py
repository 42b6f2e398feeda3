"""gRPC's interop cases that apply to a server, with grpcio's client: each transport passes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import grpc
import pytest

from tests.contracts.server_transport.conftest import MIB, SPECIAL, Site

Code = grpc.StatusCode


async def failure(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_empty_unary(site: Site) -> None:
    assert await site.unary("Echo")(b"") == b""


@pytest.mark.parametrize("size", [1, 5, 16_379, 16_384, 65_535, 65_536, 271_828, 5 * MIB])
async def test_unary_of_many_sizes(site: Site, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert await site.unary("Echo")(message) == message
    await site.until_quiet()


async def test_concurrent_large_unary(site: Site) -> None:
    messages = [bytes([at]) * MIB for at in range(30)]
    answers = await asyncio.gather(*(site.unary("Echo")(each) for each in messages))
    assert list(answers) == messages
    await site.until_quiet()


async def test_client_streaming(site: Site) -> None:
    call = site.channel.stream_unary("/test.Interop/Join", None, None)
    sizes = (27_182, 8, 1828, 45_904, 0, 3 * MIB)
    assert await call(bytes(size) for size in sizes) == b"%d" % sum(sizes)
    await site.until_quiet()


async def test_an_empty_client_stream(site: Site) -> None:
    call = site.channel.stream_unary("/test.Interop/Join", None, None)
    assert await call(iter(())) == b"0"


async def test_server_streaming(site: Site) -> None:
    call = site.channel.unary_stream("/test.Interop/Many", None, None)
    sizes = [31_415, 9, 2653, 58_979, 0, 3 * MIB]
    found = [len(each) async for each in call(b" ".join(b"%d" % size for size in sizes))]
    assert found == sizes
    await site.until_quiet()


async def test_a_server_stream_without_a_message(site: Site) -> None:
    call = site.channel.unary_stream("/test.Interop/Many", None, None)
    assert [each async for each in call(b"")] == []


async def test_a_status_behind_messages(site: Site) -> None:
    answers = aiter(site.channel.unary_stream("/test.Interop/Many", None, None)(b"1 70000 \t"))
    assert [len(await anext(answers)), len(await anext(answers))] == [1, 70_000]
    failed = await failure(anext(answers))
    assert (failed.code(), failed.details()) == (Code.INVALID_ARGUMENT, "behind the messages")


async def test_ping_pong(site: Site) -> None:
    call = site.channel.stream_stream("/test.Interop/Each", None, None)(None)
    for size in (31_415, 9, 2653, 58_979):
        await call.write(b"%d" % size)
        answer = await call.read()
        assert isinstance(answer, bytes)
        assert len(answer) == size
    await call.done_writing()
    assert not isinstance(await call.read(), bytes)
    assert await call.code() is Code.OK


async def test_an_empty_stream(site: Site) -> None:
    call = site.channel.stream_stream("/test.Interop/Each", None, None)(iter(()))
    assert [each async for each in call] == []
    assert await call.code() is Code.OK


async def test_status_code_and_message(site: Site) -> None:
    failed = await failure(site.unary("Fail")(b"blob"))
    assert failed.code() is Code.NOT_FOUND
    assert (failed.details() or "").startswith("blob ")
    failed = await failure(site.unary("Fail")(b""))
    assert (failed.code(), failed.details()) == (Code.INVALID_ARGUMENT, "100 % wrong")


async def test_special_status_message(site: Site) -> None:
    failed = await failure(site.unary("Fail")(b"entry"))
    escaped = SPECIAL.encode("unicode_escape").decode()
    assert escaped in (failed.details() or "")


@pytest.mark.parametrize("path", ["/test.Interop/None", "/test.None/Echo"])
async def test_unimplemented(site: Site, path: str) -> None:
    failed = await failure(site.channel.unary_unary(path, None, None)(b""))
    assert failed.code() is Code.UNIMPLEMENTED
    assert await site.unary("Echo")(b"x") == b"x"


async def test_custom_metadata(site: Site) -> None:
    sent = (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\0\xff,="))
    call = site.unary("Headers")(b"x", metadata=sent)
    answered = [value for key, value in await call.initial_metadata() if key == "x-answer"]
    assert answered == ["first", "second"]
    assert await call == b"x"
    headers = site.service.calls[0].transport.headers
    assert [each for each in headers if each[0].startswith("x-")] == list(sent)


async def test_cancel_after_begin(site: Site) -> None:
    call = site.channel.stream_unary("/test.Interop/Join", None, None)(None)
    await call.write(b"x")
    await site.service.entered.wait()
    call.cancel()
    async with asyncio.timeout(60):
        await site.service.cancelled.wait()
    await site.until_quiet()


async def test_cancel_after_first_response(site: Site) -> None:
    call = site.channel.unary_stream("/test.Interop/Many", None, None)(b"1000000 " * 200)
    assert isinstance(await call.read(), bytes)
    call.cancel()
    async with asyncio.timeout(60):
        await site.service.cancelled.wait()
    await site.until_quiet()


async def test_cancel_of_a_handler_that_waits(site: Site) -> None:
    call = site.unary("Sleep")(b"")
    await asyncio.gather(site.service.entered.wait(), return_exceptions=True)
    call.cancel()
    async with asyncio.timeout(60):
        await site.service.cancelled.wait()
    await site.until_quiet()


@pytest.mark.parametrize("timeout_s", [0.05, 0.5])
async def test_timeout_on_a_sleeping_server(site: Site, timeout_s: float) -> None:
    while not site.service.entered.is_set():  # the time may be up before it is there
        failed = await failure(site.unary("Sleep")(b"", timeout=timeout_s))
        assert failed.code() is Code.DEADLINE_EXCEEDED
    async with asyncio.timeout(60):
        await site.service.cancelled.wait()
    await site.until_quiet()


@pytest.mark.parametrize("method", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_client_compressed_unary(site: Site, method: grpc.Compression) -> None:
    message = b"compress me " * 20_000
    assert await site.unary("Echo")(message, compression=method) == message


async def test_client_compressed_streaming(site: Site) -> None:
    call = site.channel.stream_unary("/test.Interop/Join", None, None)
    sizes = (27_182, 45_904)
    answer = await call((bytes(size) for size in sizes), compression=grpc.Compression.Gzip)
    assert answer == b"%d" % sum(sizes)


async def test_a_message_above_the_limit_is_resource_exhausted(site: Site) -> None:
    failed = await failure(site.unary("Echo")(bytes(site.limits.message + 1)))
    assert failed.code() is Code.RESOURCE_EXHAUSTED
    assert await site.unary("Echo")(b"x") == b"x"
    await site.until_quiet()


async def test_a_compressed_message_above_the_limit_is_resource_exhausted(site: Site) -> None:
    bomb = bytes(site.limits.message + 1)
    call = site.unary("Echo")(bomb, compression=grpc.Compression.Gzip)
    assert (await failure(call)).code() is Code.RESOURCE_EXHAUSTED
    await site.until_quiet()


async def test_a_request_above_its_methods_own_bound_is_refused(site: Site) -> None:
    failed = await failure(site.unary("Small")(bytes(1001)))
    assert failed.code() is Code.INVALID_ARGUMENT
    assert failed.details() == "a request of 1001 bytes; at most 1000"
    assert site.service.requests == []


async def test_an_early_answer_reaches_a_client_that_still_sends(site: Site) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(MIB)

    call = site.channel.stream_unary("/test.Interop/Early", None, None)
    async with asyncio.timeout(60):
        assert await call(endless()) == b"enough"
    await site.until_quiet()


async def test_calls_beside_an_upload_that_nobody_reads_are_answered(site: Site) -> None:
    stuck = site.channel.stream_unary("/test.Interop/Join", None, None)
    uploads = []
    for _ in range(20):
        call = stuck(None)
        await call.write(bytes(100_000))
        uploads.append(call)
    assert await site.unary("Echo")(bytes(MIB)) == bytes(MIB)
    for call in uploads:
        await call.done_writing()
    assert [await call for call in uploads] == [b"100000"] * 20
    await site.until_quiet()


async def test_calls_beside_a_reader_that_takes_nothing_are_answered(site: Site) -> None:
    slow = aiter(site.channel.unary_stream("/test.Interop/Many", None, None)(b"1000000 " * 50))
    taken_bytes = len(await anext(slow))
    assert await site.unary("Echo")(bytes(MIB)) == bytes(MIB)
    async for each in slow:
        taken_bytes += len(each)
    assert taken_bytes == 50_000_000
    await site.until_quiet()
