"""A third implementation of gRPC (grpc-js, over Node's HTTP/2) is served by each transport."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.clients.tools import tool
from tests.contracts.server_transport.conftest import MIB, SPECIAL, Site, until

pytestmark = pytest.mark.clients

_SCRIPT = Path(__file__).with_name("grpc_js.js")
_LINE_BYTES = 2**26
Code = grpc.StatusCode
# How calls end that come after a drain has begun and before the client has GOAWAY. Of grpcio's
# some are cancelled, and some get no answer at all.
_BEFORE_GOAWAY = {
    "grpcio": (Code.OK, Code.CANCELLED, Code.DEADLINE_EXCEEDED),
    "http2": (Code.OK,),
}


class Ended:
    """How a call has ended."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.code: int = said["code"]
        self.details: str = said["details"]
        self.messages: list[bytes] = [b64decode(each) for each in said["messages"]]
        self.initial: list[list[str]] = said["initial"]

    def check(self, code: grpc.StatusCode = Code.OK) -> Ended:
        """Fail unless it is this status."""
        assert self.code == code.value[0], (self.code, self.details)
        return self


class Running:
    """A call that has begun; `first`: its first message has come."""

    def __init__(self, client: GrpcJs, number: int) -> None:
        self._client = client
        self._number = number
        self.first = asyncio.Event()
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def tell(self, what: str) -> None:
        """Cancel it, end its messages, or take those that were held."""
        self._client.say({"id": self._number, "tell": what})


class GrpcJs:
    """A process of Node's with one client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._running: dict[int, Running] = {}

    def say(self, command: dict[str, Any]) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def listen(self) -> None:
        """Read what it says, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "first" in said:
                self._running[said["id"]].first.set()
            else:
                self._running.pop(said["id"]).ended.set_result(Ended(said))

    def begin(
        self,
        kind: str,
        method: str,
        *messages: bytes,
        metadata: Sequence[tuple[str, str]] = (),
        **options: object,
    ) -> Running:
        """Begin a call of this kind: unary, client, server or both."""
        number = next(self._numbers)
        running = self._running[number] = Running(self, number)
        command = {
            "id": number,
            "kind": kind,
            "path": f"/test.Interop/{method}",
            "messages": [b64encode(each).decode() for each in messages],
            "metadata": metadata,
        }
        self.say({**command, **options})
        return running

    async def call(self, kind: str, method: str, *messages: bytes, **options: Any) -> Ended:
        """Do a call."""
        async with asyncio.timeout(60):
            return await self.begin(kind, method, *messages, **options).ended


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[GrpcJs]:
    modules = tool("grpc-js").parents[1]
    process = await asyncio.create_subprocess_exec(
        shutil.which("node") or "node",
        _SCRIPT,
        site.address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(modules)},
        limit=_LINE_BYTES,
    )
    client = GrpcJs(process)
    listening = asyncio.ensure_future(client.listen())
    try:
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MIB])
async def test_unary(site: Site, size: int) -> None:
    async with connected(site) as js:
        assert (await js.call("unary", "Echo", bytes(size))).check().messages == [bytes(size)]
        found = await asyncio.gather(*(js.call("unary", "Echo", b"%d" % at) for at in range(100)))
        assert [each.check().messages for each in found] == [[b"%d" % at] for at in range(100)]
    await site.until_quiet()


async def test_streams(site: Site) -> None:
    async with connected(site) as js:
        joined = await js.call("client", "Join", bytes(27_182), b"", bytes(MIB))
        assert joined.check().messages == [b"%d" % (27_182 + MIB)]
        many = await js.call("server", "Many", b"31415 9 0 3000000")
        assert [len(each) for each in many.check().messages] == [31_415, 9, 0, 3_000_000]
        each = await js.call("both", "Each", b"5", b"70000", b"0")
        assert [len(one) for one in each.check().messages] == [5, 70_000, 0]
        assert (await js.call("client", "Join")).check().messages == [b"0"]
        assert (await js.call("both", "Each")).check().messages == []
    await site.until_quiet()


async def test_statuses(site: Site) -> None:
    async with connected(site) as js:
        for method, message, code, details in (
            ("Fail", b"blob", Code.NOT_FOUND, "blob "),
            ("Fail", b"", Code.INVALID_ARGUMENT, "100 % wrong"),
            ("Fail", b"entry", Code.NOT_FOUND, ""),
            ("None", b"", Code.UNIMPLEMENTED, ""),
            ("Small", bytes(1001), Code.INVALID_ARGUMENT, "a request of 1001 bytes"),
        ):
            ended = (await js.call("unary", method, message)).check(code)
            assert ended.details.startswith(details)
            assert ended.messages == []
        escaped = (await js.call("unary", "Fail", b"entry")).details
        assert SPECIAL.encode("unicode_escape").decode() in escaped
        behind = await js.call("server", "Many", b"1 70000 \t")
        assert behind.check(Code.INVALID_ARGUMENT).details == "behind the messages"
        assert [len(each) for each in behind.messages] == [1, 70_000]


async def test_deadlines(site: Site) -> None:
    async with connected(site) as js:
        while not site.service.entered.is_set():  # the time may be up before it is there
            (await js.call("unary", "Sleep", b"", timeout_s=0.3)).check(Code.DEADLINE_EXCEEDED)
        async with asyncio.timeout(60):
            await site.service.cancelled.wait()
        (await js.call("unary", "Echo", b"x")).check()
    await site.until_quiet()


@pytest.mark.parametrize("kind", ["unary", "client", "server"])
async def test_cancellation(site: Site, kind: str) -> None:
    async with connected(site) as js:
        if kind == "server":
            running = js.begin("server", "Many", b"1000000 " * 200)
            await running.first.wait()
        else:
            method = {"unary": "Sleep", "client": "Join"}[kind]
            running = js.begin(kind, method, b"x", hold=True)
            await site.service.entered.wait()
        running.tell("cancel")
        async with asyncio.timeout(60):
            (await running.ended).check(Code.CANCELLED)
            if kind != "client":  # Node ends the messages before it resets a stream
                await site.service.cancelled.wait()
        (await js.call("unary", "Echo", b"x")).check()
    await site.until_quiet()


async def test_metadata(site: Site) -> None:
    sent = [("x-a", "1"), ("x-a", "2"), ("x-b-bin", b64encode(b"\0\xff,=").decode())]
    async with connected(site) as js:
        ended = (await js.call("unary", "Headers", b"x", metadata=sent)).check()
        assert ended.messages == [b"x"]
        # grpc-js joins values of one name.
        values = ", ".join(value for name, value in ended.initial if name == "x-answer")
        assert values == "first, second"
    headers = site.service.calls[0].transport.headers
    values = ", ".join(str(value) for name, value in headers if name == "x-a")
    assert values == "1, 2"
    assert dict(headers)["x-b-bin"] == b"\0\xff,="


async def test_compression(site: Site) -> None:
    async with connected(site) as js:
        message = b"compress me " * 20_000
        assert (await js.call("unary", "Echo", message, gzip=True)).check().messages == [message]
        joined = await js.call("client", "Join", bytes(27_182), bytes(45_904), gzip=True)
        assert joined.check().messages == [b"73086"]
        bomb = await js.call("unary", "Echo", bytes(site.limits.message + 1), gzip=True)
        bomb.check(Code.RESOURCE_EXHAUSTED)
    await site.until_quiet()


async def test_large_messages(site: Site) -> None:
    async with connected(site) as js:
        most = site.limits.message
        (await js.call("unary", "Echo", bytes(most + 1))).check(Code.RESOURCE_EXHAUSTED)
        found = await asyncio.gather(*(js.call("unary", "Echo", bytes(most)) for _ in range(4)))
        assert [len(each.check().messages[0]) for each in found] == [most] * 4
    await site.until_quiet()


async def test_an_early_answer_reaches_a_client_that_still_sends(site: Site) -> None:
    async with connected(site) as js:
        for _ in range(20):
            ended = await js.call("client", "Early", b"x", endless=True)
            assert ended.check().messages == [b"enough"]
    await site.until_quiet()


async def test_calls_beside_uploads_and_readers_that_pause_are_answered(site: Site) -> None:
    async with connected(site) as js:
        uploads = [js.begin("client", "Join", bytes(100_000), hold=True) for _ in range(20)]
        reader = js.begin("server", "Many", b"1000000 " * 20, hold=True)
        found = await js.call("unary", "Echo", bytes(MIB))
        assert found.check().messages == [bytes(MIB)]
        for each in uploads:
            each.tell("end")
        reader.tell("take")
        for each in uploads:
            assert (await each.ended).check().messages == [b"100000"]
        assert sum(map(len, (await reader.ended).check().messages)) == 20_000_000
    await site.until_quiet()


async def test_a_drain_lets_running_calls_end_and_takes_no_more(site: Site, transport: str) -> None:
    codes = {code.value[0] for code in _BEFORE_GOAWAY[transport]}
    patience_s = 5 if Code.DEADLINE_EXCEEDED.value[0] in codes else 60
    async with connected(site) as js:
        running = js.begin("unary", "Sleep", b"")
        upload = js.begin("client", "Join", bytes(1000), hold=True)
        await site.service.entered.wait()
        await until(lambda: site.runtime.calls.count == 2)
        stopping = asyncio.ensure_future(site.stop(60))
        async with asyncio.timeout(60):
            while True:
                ended = await js.call("unary", "Echo", b"x", timeout_s=patience_s)
                if ended.code not in codes:
                    break
        ended.check(Code.UNAVAILABLE)
        site.service.release.set()
        upload.tell("end")
        assert (await running.ended).check().messages == [b"slept"]
        assert (await upload.ended).check().messages == [b"1000"]
        async with asyncio.timeout(60):
            await stopping
