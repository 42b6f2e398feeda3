from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping

import grpc
import pytest
from structlog.testing import capture_logs

from federation.config.model import LimitsConfig
from federation.core import errors
from federation.core.clock import ManualClock
from federation.core.digest import EMPTY
from federation.observability.rate_limits import LogLimit
from federation.services.call import Call
from federation.services.method import ClientStream, Method, ServerStream, Unary
from federation.services.request_stream import RequestStream
from federation.services.status_codes import clean, status_of
from tests.services.conftest import Serve, Served


class Probe:
    """Does what each test sets; `echo` answers what it was asked."""

    name = "test.Probe"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls: list[Call] = []
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.closed = asyncio.Event()
        self.patience_s = 60.0

    def methods(self) -> Mapping[str, Method]:
        return {
            "Echo": Unary(self.echo),
            "Write": Unary(self.echo, writes=True),
            "Hang": Unary(self.hang),
            "Count": ServerStream(self.count),
            "Join": ClientStream(self.join),
        }

    async def echo(self, request: bytes, call: Call) -> bytes:
        self.calls.append(call)
        if self.error:
            raise self.error
        return request

    async def hang(self, request: bytes, call: Call) -> bytes:
        self.started.set()
        try:
            never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            return await never
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def count(self, request: bytes, call: Call) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(int(request)):
                yield b"%d" % number
            if self.error:
                raise self.error
        finally:
            self.closed.set()

    async def join(self, requests: RequestStream, call: Call) -> bytes:
        parts = []
        while (part := await requests.next(self.patience_s)) is not None:
            parts.append(part)
        return b"".join(parts)


def unary(served: Served, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    return served.channel.unary_unary(f"/test.Probe/{method}", None, None)


async def failure(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


ERRORS: dict[Exception, grpc.StatusCode] = {
    errors.InvalidRequest("x"): grpc.StatusCode.INVALID_ARGUMENT,
    errors.DigestMismatch(EMPTY, "x"): grpc.StatusCode.INVALID_ARGUMENT,
    errors.BlobTooLarge(EMPTY, 1): grpc.StatusCode.INVALID_ARGUMENT,
    errors.BlobNotFound(EMPTY): grpc.StatusCode.NOT_FOUND,
    errors.EntryNotFound("x"): grpc.StatusCode.NOT_FOUND,
    errors.OffsetOutside(EMPTY, 1): grpc.StatusCode.OUT_OF_RANGE,
    errors.StorageFull("x"): grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooBusy("x"): grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFailed("x"): grpc.StatusCode.UNAVAILABLE,
    errors.SourceUnavailable("s", "x"): grpc.StatusCode.UNAVAILABLE,
    errors.BlobDamaged(EMPTY, "x"): grpc.StatusCode.DATA_LOSS,
    errors.NotAllowed("x"): grpc.StatusCode.PERMISSION_DENIED,
    errors.UploadSuperseded("x"): grpc.StatusCode.ABORTED,
    errors.Stalled("x"): grpc.StatusCode.DEADLINE_EXCEEDED,
}


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
async def test_each_error_becomes_its_status(serve: Serve, error: Exception) -> None:
    probe = Probe()
    served = await serve(probe)
    probe.error = error
    failed = await failure(unary(served, "Echo")(b""))
    assert failed.code() == ERRORS[error]
    assert failed.details() == str(error)
    code = ERRORS[error].name
    assert served.counted("federation_requests_total", method="test.Probe/Echo", code=code) == 1


async def test_an_error_nobody_foresaw_is_internal_and_tells_the_client_nothing(
    serve: Serve,
) -> None:
    probe = Probe()
    served = await serve(probe)
    probe.error = KeyError("secret")
    with capture_logs() as logs:
        failed = await failure(unary(served, "Echo")(b""))
    assert failed.code() == grpc.StatusCode.INTERNAL
    details = failed.details()
    assert details is not None
    assert "secret" not in details
    (line,) = [line for line in logs if line["event"] == "call_failed"]
    assert line["exc_info"] is probe.error


async def test_raw_bytes_pass_both_ways_and_the_call_is_counted(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    assert await unary(served, "Echo")(b"\xff\x00") == b"\xff\x00"
    assert probe.calls[0].method == "test.Probe/Echo"
    assert probe.calls[0].peer.startswith("ipv4:127.0.0.1:")
    assert served.counted("federation_requests_total", method="test.Probe/Echo", code="OK") == 1
    assert served.counted("federation_requests_running") == 0


async def test_a_listener_without_push_refuses_writes_before_the_handler(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe, may_push=False)
    failed = await failure(unary(served, "Write")(b""))
    assert failed.code() == grpc.StatusCode.PERMISSION_DENIED
    assert probe.calls == []
    assert await unary(served, "Echo")(b"read") == b"read"
    assert probe.calls[0].rights.may_push("") is False


async def test_a_call_without_a_stream_ends_at_the_time_limit(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe, limits=LimitsConfig(request_time=0.5))
    assert (await failure(unary(served, "Hang")(b""))).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert probe.cancelled.is_set()


async def test_l06_calls_above_the_limit_are_refused_not_queued(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe, limits=LimitsConfig(streams=1))
    running = unary(served, "Hang")(b"")
    await probe.started.wait()
    failed = await failure(unary(served, "Echo")(b""))
    assert failed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limits.streams" in (failed.details() or "")
    assert served.counted("federation_limits_hit_total", limit="streams") == 1
    running.cancel()
    async with asyncio.timeout(60):
        await probe.cancelled.wait()
    assert await unary(served, "Echo")(b"again") == b"again"


async def test_a_call_without_a_message_is_refused(serve: Serve) -> None:
    served = await serve(Probe())
    call = served.channel.stream_unary("/test.Probe/Echo", None, None)(iter(()))
    assert (await failure(call)).code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_timeout_of_the_machine_is_not_taken_for_the_time_limit(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    probe.error = TimeoutError("a disk")
    assert (await failure(unary(served, "Echo")(b""))).code() == grpc.StatusCode.INTERNAL


async def test_a_client_that_cancels_cancels_the_handler(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    call = unary(served, "Hang")(b"")
    async with asyncio.timeout(60):
        await probe.started.wait()
        call.cancel()
        await probe.cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_server_stream_ends_with_the_error_after_its_messages(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    probe.error = errors.BlobDamaged(EMPTY, "bits")
    call = served.channel.unary_stream("/test.Probe/Count", None, None)(b"3")
    assert [await call.read() for _ in range(3)] == [b"0", b"1", b"2"]
    assert (await failure(call.read())).code() == grpc.StatusCode.DATA_LOSS


async def test_a_reader_that_leaves_closes_the_generator(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    call = served.channel.unary_stream("/test.Probe/Count", None, None)(b"10000000")
    assert await call.read() == b"0"
    call.cancel()
    async with asyncio.timeout(60):
        await probe.closed.wait()


async def test_a_client_stream_is_read_to_its_half_close(serve: Serve) -> None:
    served = await serve(Probe())

    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b""
        yield b"b"

    assert await served.channel.stream_unary("/test.Probe/Join", None, None)(parts()) == b"ab"


async def test_l02_a_client_stream_that_says_nothing_is_ended(serve: Serve) -> None:
    probe = Probe()
    probe.patience_s = 0.2
    served = await serve(probe)
    call = served.channel.stream_unary("/test.Probe/Join", None, None)(None)
    await call.write(b"a")
    assert (await failure(call)).code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_w40_a_method_that_is_not_there_is_unimplemented(serve: Serve) -> None:
    served = await serve(Probe())
    assert (await failure(unary(served, "Other")(b""))).code() == grpc.StatusCode.UNIMPLEMENTED


async def test_l19_bad_requests_do_not_flood_the_log(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    probe.error = errors.InvalidRequest("bad")
    with capture_logs() as logs:
        for _ in range(200):
            await failure(unary(served, "Echo")(b""))
    assert 50 <= len(logs) < 120


async def test_misses_are_ordinary_and_each_has_its_line_at_debug(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    probe.error = errors.BlobNotFound(EMPTY)
    with capture_logs() as logs:
        for _ in range(80):
            await failure(unary(served, "Echo")(b""))
    assert [line["log_level"] for line in logs] == ["debug"] * 80


async def test_a_reader_that_leaves_in_mid_write_is_no_error_of_ours(serve: Serve) -> None:
    probe = Probe()
    served = await serve(probe)
    with capture_logs() as logs:
        for _ in range(20):
            call = served.channel.unary_stream("/test.Probe/Count", None, None)(b"10000000")
            assert await call.read() == b"0"
            call.cancel()
            async with asyncio.timeout(60):
                await probe.closed.wait()
            probe.closed.clear()
    assert {line["log_level"] for line in logs} <= {"debug"}


def test_a_log_limit_says_how_many_lines_it_held_back() -> None:
    clock = ManualClock()
    limit = LogLimit(clock, per_second=1, burst=2)
    assert [limit.admit() for _ in range(5)] == [0, 0, None, None, None]
    clock.advance(1)
    assert [limit.admit(), limit.admit()] == [3, None]


def test_a18_text_from_clients_is_escaped_and_clipped() -> None:
    assert clean("a\nb\x1b[31m\u00e9\x00") == "a\\nb\\x1b[31m\\xe9\\x00"
    assert len(clean("x" * 2**16)) == 512
    assert len(clean("\n" * 2**16)) <= 512
    assert status_of(OSError("x")) is None
