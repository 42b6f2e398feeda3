"""Small calls that are answered as their requests are taken, without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import ngh2
import pytest

from federation.config.model import LimitsConfig
from federation.services.call import Call
from federation.services.method import SMALL_ANSWER, ClientStream, Method, ServerStream, Unary
from federation.services.request_stream import RequestStream
from tests.support.samples import sample_value
from tests.transport.test_connection import Client
from tests.transport.test_server import Site, Waits

PATH = "/test.Waits/{}"


class Quick(Waits):
    """Answers at once, unless it is told not to; notes which calls it served and how."""

    def __init__(self) -> None:
        super().__init__()
        self.served: list[str] = []
        self.waits = False
        self.answer = b"at once"
        self.was_ready: list[bool] = []  # before the message of an upload, and behind it

    def methods(self) -> Mapping[str, Method]:
        return {
            "Echo": Unary(self.later, at_once=self.now),
            "Much": ServerStream(self.much, at_once=self.now),
            "Upload": ClientStream(self.upload),
        }

    async def upload(self, requests: RequestStream, call: Call) -> bytes:
        self.was_ready.append(call.transport.is_ready())
        message = await requests.next(60)
        self.was_ready.append(call.transport.is_ready())
        assert await requests.next(60) is None
        return message or b""

    def now(self, request: bytes, _call: Call) -> bytes | None:
        self.served.append("now")
        return None if self.waits else request or self.answer

    async def later(self, request: bytes, _call: Call) -> bytes:
        self.served.append("later")
        return request or b"later"


class QuickSite(Site):
    service: Quick

    def make_service(self) -> Quick:
        return Quick()


class Talk:
    """A connection and its client, over no socket; a test says when the server's side sends."""

    def __init__(self, limits: LimitsConfig | None = None, window_bytes: int = 2**20) -> None:
        self.site = QuickSite(limits)
        self.here = Client(self.site)
        self.socket = self.here.socket
        self.sent: list[bytes] = []
        self.socket.write = self.sent.append  # type: ignore[method-assign, assignment]
        self.client = ngh2.Connection(ngh2.Role.CLIENT)
        self.client.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: window_bytes})
        self.events: list[ngh2.events.Event] = []

    def begin(self, method: str, *headers: tuple[bytes, bytes]) -> int:
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", b"node"),
            (b":path", PATH.format(method).encode()),
            (b"content-type", b"application/grpc"),
            *headers,
        ]
        return self.client.send_request(fields)

    def ask(self, method: str, request: bytes = b"", *headers: tuple[bytes, bytes]) -> int:
        stream = self.begin(method, *headers)
        message = b"\0" + len(request).to_bytes(4, "big") + request
        self.client.send_data(stream, message, end_stream=True)
        return stream

    async def exchange(self) -> None:
        for _ in range(10):
            self.here.sends(self.client.data_to_send())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for data in self.sent:
                self.client.receive_data(data)
            self.sent.clear()
            self.events += self.client.events()

    def answer(self, stream: int) -> tuple[bytes, bytes]:
        """Return the message that came on a stream, and its status."""
        data, status = b"", b""
        for event in self.events:
            if getattr(event, "stream_id", 0) != stream:
                continue
            if isinstance(event, ngh2.events.DataReceived):
                data += event.data
            headers = getattr(event, "headers", ())
            status = dict(headers).get(b"grpc-status", status)
        return data[5:], status

    @property
    def tasks(self) -> int:
        return len(self.site.server._tasks)

    def counted(self, name: str, **labels: str) -> float:
        return sample_value(self.site.runtime.metrics, f"federation_{name}", labels)


@pytest.mark.parametrize("method", ["Echo", "Much"])
async def test_a_small_request_that_came_whole_is_answered_without_a_task(method: str) -> None:
    talk = Talk()
    stream = talk.ask(method, b"small")
    talk.here.sends(talk.client.data_to_send())
    assert (talk.site.service.served, talk.tasks) == (["now"], 0)
    await talk.exchange()
    assert talk.answer(stream) == (b"small", b"0")
    assert talk.counted("requests_total", method=PATH.format(method)[1:], code="OK") == 1
    assert (len(talk.here.connection._calls), talk.site.budget.used_bytes) == (0, 0)
    assert talk.site.runtime.calls.count == 0


async def test_a_request_in_parts_is_served_by_a_task() -> None:
    talk = Talk()
    stream = talk.begin("Echo")
    talk.here.sends(talk.client.data_to_send())
    talk.client.send_data(stream, b"\0\0\0\0\1x", end_stream=True)
    await talk.exchange()
    assert talk.site.service.served == ["later"]
    assert talk.answer(stream) == (b"x", b"0")


@pytest.mark.parametrize("window_bytes", [0, SMALL_ANSWER])
async def test_a_client_that_takes_no_small_answer_is_served_by_a_task(window_bytes: int) -> None:
    talk = Talk(window_bytes=window_bytes)
    stream = talk.ask("Echo", b"small")
    await talk.exchange()
    assert talk.site.service.served == ["later"]
    if window_bytes:
        assert talk.answer(stream) == (b"small", b"0")
    else:
        assert talk.tasks == 1
    talk.here.connection.connection_lost(None)
    await asyncio.sleep(0)


async def test_a_client_whose_socket_takes_nothing_is_served_by_a_task() -> None:
    talk = Talk()
    talk.ask("Echo", b"small")
    talk.here.connection.pause_writing()
    talk.here.sends(talk.client.data_to_send())
    await asyncio.sleep(0)
    assert (talk.site.service.served, talk.tasks) == (["later"], 1)
    talk.here.connection.connection_lost(None)
    await asyncio.sleep(0)


async def test_what_would_wait_and_what_is_large_is_served_by_a_task() -> None:
    talk = Talk()
    talk.site.service.waits = True
    waiting = talk.ask("Echo")
    await talk.exchange()
    assert (talk.site.service.served, talk.answer(waiting)) == (["now", "later"], (b"later", b"0"))
    talk = Talk()
    talk.site.service.answer = bytes(SMALL_ANSWER + 1)
    large = talk.ask("Echo")
    long = talk.ask("Echo", bytes(5000))
    await talk.exchange()
    assert sorted(talk.site.service.served) == ["later", "later", "now"]
    assert talk.answer(large) == (b"later", b"0")
    assert talk.answer(long) == (bytes(5000), b"0")


async def test_a_compressed_request_is_served_by_a_task() -> None:
    talk = Talk()
    stream = talk.begin("Echo", (b"grpc-encoding", b"gzip"))
    packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x00\x00\x83\x16\xdc\x8c\x01\x00\x00\x00"
    talk.client.send_data(stream, b"\1" + len(packed).to_bytes(4, "big") + packed, end_stream=True)
    await talk.exchange()
    assert talk.site.service.served == ["later"]
    assert talk.answer(stream) == (b"x", b"0")


async def test_an_upload_is_ready_once_all_of_its_message_is_here() -> None:
    talk = Talk()
    whole = talk.ask("Upload", b"message")
    await talk.exchange()
    assert talk.answer(whole) == (b"message", b"0")
    assert talk.site.service.was_ready == [True, True]

    talk.site.service.was_ready.clear()
    in_parts = talk.begin("Upload")
    talk.client.send_data(in_parts, b"\0\0\0\0\7mess")
    await talk.exchange()
    talk.client.send_data(in_parts, b"age")
    await talk.exchange()
    assert talk.site.service.was_ready == [False, False]
    talk.client.end_stream(in_parts)
    await talk.exchange()
    assert talk.answer(in_parts) == (b"message", b"0")
