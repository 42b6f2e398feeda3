"""Headers come from a program: run seldom, once for all, and never for longer than it may take."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from federation.core.clock import ManualClock
from federation.remote.credential_helper import CredentialHelper
from federation.remote.failures import Denied, FailureKind, RemoteFailed
from federation.remote.helper_answer import HelperAnswer, HelperFailed, parse_answer
from tests.support.polling import until

URI = "https://cache.example.com"
BEARER = [("authorization", "Bearer secret")]


def printed(**facts: Any) -> bytes:
    return json.dumps(facts).encode()


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (printed(headers={"Authorization": ["Bearer secret"]}), BEARER),
        (printed(headers={"x-a": ["1", "2"], "X-B": []}, other=1), [("x-a", "1"), ("x-a", "2")]),
        (b"{}", []),
    ],
)
def test_an_answer_is_read_as_the_protocol_says(
    data: bytes, headers: list[tuple[str, str]]
) -> None:
    assert parse_answer(data) == (headers, None)


def test_a_date_may_have_any_zone() -> None:
    for text in ("2027-01-15T08:00:00Z", "2027-01-15T09:00:00+01:00", "2027-01-15T08:00:00.000Z"):
        assert parse_answer(printed(expires=text)).expires_s == 1_800_000_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no JSON"),
        (b"secret", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no mapping"),
        (printed(headers=["secret"]), "no mapping"),
        (printed(headers={"a": "secret"}), "no list"),
        (printed(headers={"a": [1]}), "not printable"),
        (printed(headers={"a": ["se\ncret"]}), "not printable"),
        (printed(headers={"a": ["é"]}), "not printable"),
        (printed(headers={"a b": ["secret"]}), "name that calls cannot have"),
        (printed(headers={":path": ["secret"]}), "name that calls cannot have"),
        (printed(headers={"grpc-timeout": ["1S"]}), "name that calls cannot have"),
        (printed(headers={"federation-via": ["me"]}), "name that calls cannot have"),
        (printed(headers={"x-bin": ["secret"]}), "name that calls cannot have"),
        (printed(headers={"a": ["s" * 9000]}), "more than 8192 bytes"),
        (printed(expires="tomorrow"), "RFC 3339"),
        (printed(expires=5), "RFC 3339"),
        (printed(expires="2027-01-15T08:00:00"), "without a time zone"),
    ],
)
def test_what_cannot_be_sent_is_an_error_that_repeats_nothing(data: bytes, says: str) -> None:
    with pytest.raises(HelperFailed, match=says) as failed:
        parse_answer(data)
    assert "secret" not in str(failed.value)


class Bench:
    """A helper whose program is scripted."""

    def __init__(self, expires_in_s: float | None = 600.0) -> None:
        self.clock = ManualClock()
        self.expires_in_s = expires_in_s
        self.runs = 0
        self.failure = ""
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.helper = CredentialHelper("hq", Path("/bin/helper"), URI, self.clock, self.run)

    async def run(self, program: Path, uri: str) -> HelperAnswer:
        assert (program, uri) == (Path("/bin/helper"), URI)
        self.runs += 1
        await self.go_on.wait()
        if self.failure:
            raise HelperFailed(self.failure)
        expires_s = None if self.expires_in_s is None else self.clock.wall_s() + self.expires_in_s
        return HelperAnswer([("run", str(self.runs))], expires_s)

    async def sent(self) -> int:
        """Which run's headers a call would be sent with."""
        ((_, run),) = await self.helper.headers()
        return int(run)

    async def fails(self) -> RemoteFailed:
        with pytest.raises(RemoteFailed) as failed:
            await self.helper.headers()
        assert isinstance(failed.value, Denied)
        return failed.value


async def test_all_calls_that_wait_share_one_run_and_later_ones_its_headers() -> None:
    bench = Bench()
    assert await asyncio.gather(*(bench.sent() for _ in range(20))) == [1] * 20
    bench.clock.advance(500)
    assert await bench.sent() == 1
    assert bench.runs == 1


@pytest.mark.parametrize(("expires_in_s", "kept_s"), [(600.0, 600), (None, 1800), (20.0, 20)])
async def test_headers_are_asked_for_anew_shortly_before_they_end_while_calls_go_on(
    expires_in_s: float | None, kept_s: float
) -> None:
    bench = Bench(expires_in_s)
    await bench.sent()
    bench.clock.advance(kept_s * 0.85)
    assert await bench.sent() == 1
    assert bench.runs == 1
    bench.clock.advance(kept_s * 0.14)
    bench.go_on.clear()
    assert await bench.sent() == 1  # the second run has begun
    bench.go_on.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.runs == 2
    assert await bench.sent() == 2


async def test_a_failure_is_the_remotes_and_is_not_tried_again_at_every_call() -> None:
    bench = Bench()
    bench.failure = "has ended with the status 1"
    with capture_logs() as logs:
        errors = [await bench.fails() for _ in range(10)]
        bench.clock.advance(5)
        await bench.fails()
    assert bench.runs == 2
    assert "/bin/helper has ended with the status 1" in errors[0].reason
    assert f'echo \'{{"uri": "{URI}"}}\' | /bin/helper get' in errors[0].reason
    assert [each["event"] for each in logs] == ["credential_helper_failed"]
    bench.failure = ""
    bench.clock.advance(5)
    assert await bench.sent() == 3


async def test_headers_that_have_not_ended_go_on_while_the_helper_fails() -> None:
    bench = Bench()
    await bench.sent()
    bench.failure = "cannot be run"
    bench.clock.advance(599)
    for _ in range(3):
        assert await bench.sent() == 1
    bench.clock.advance(1)
    await bench.fails()


async def test_refused_headers_are_asked_for_anew_before_the_next_call() -> None:
    bench = Bench()
    await bench.sent()
    bench.helper.look_soon()
    assert await bench.sent() == 1  # too soon after the last run
    bench.clock.advance(5)
    assert await bench.sent() == 2
    assert await bench.sent() == 2


async def test_headers_that_are_over_already_are_a_failure() -> None:
    bench = Bench(-1.0)
    error = await bench.fails()
    assert "over already" in error.reason
    await bench.fails()
    assert bench.runs == 1


async def test_a_call_that_leaves_does_not_end_the_run_and_close_does() -> None:
    bench = Bench()
    bench.go_on.clear()
    waiting = [asyncio.ensure_future(bench.sent()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    bench.go_on.set()
    assert await waiting[1] == 1
    bench.go_on.clear()
    bench.clock.advance(600)
    last = asyncio.ensure_future(bench.sent())
    await until(lambda: bench.runs == 2, "the second run")
    await bench.helper.close()
    for call in (last, bench.sent()):
        with pytest.raises(RemoteFailed) as failed:  # nobody has cancelled the call
            await call
        assert failed.value.kind is FailureKind.CLOSED
    assert bench.runs == 2
