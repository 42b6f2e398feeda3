"""One connection over a socket that a test moves: what is done with clients that do nothing."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from ngh2 import ErrorCode
from structlog.testing import capture_logs

from federation.transport.connection import Http2Connection
from federation.transport.lifetime import CLOSING_S, DEAD_S, FRAME_S, HANDSHAKE_S, SILENT_S
from federation.transport.session import Http2Settings
from federation.transport.tls import TlsLayer
from tests.support.samples import sample_value
from tests.transport.test_fuzz import Socket, call
from tests.transport.test_server import Site
from tests.transport.test_tls import Client as TlsClient
from tests.transport.test_tls import Site as TlsSite
from tests.transport.test_tls import layer_of
from tests.transport.wire import DATA, GOAWAY, PREFACE, SETTINGS, frame

HITS = "federation_limits_hit_total"


class Client:
    """A connection of a site, and what comes on its socket."""

    def __init__(self, site: Site, tls: TlsLayer | None = None) -> None:
        self.site = site
        self.connection = Http2Connection(site.server, Http2Settings(100, 2**24), tls)
        self.socket = Socket(self.connection, random.Random(0))
        self.connection.connection_made(self.socket)
        self.began_s = site.runtime.clock.monotonic_s()

    @property
    def state(self) -> str:
        """What has become of the socket."""
        return "aborted" if self.socket.aborted else "closed" if self.socket.closed else "open"

    def sends(self, data: bytes) -> None:
        while data:
            buffer = self.connection.get_buffer(-1)
            piece, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))

    def after(self, seconds: float) -> None:
        self.connection.look(self.began_s + seconds + 1)

    def hits(self, limit: str) -> float:
        return sample_value(self.site.runtime.metrics, HITS, {"limit": limit})


async def test_a_client_that_says_nothing_is_closed_and_counted_once() -> None:
    client = Client(Site())
    client.after(HANDSHAKE_S - 2)
    assert client.state == "open"
    client.after(HANDSHAKE_S)
    assert client.state == "closed"
    client.after(HANDSHAKE_S)
    assert client.hits("connection.handshake") == 1


async def test_a_connection_that_cannot_be_closed_is_aborted() -> None:
    client = Client(Site())
    client.sends(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.state == "closed"
    client.after(CLOSING_S)
    assert client.state == "aborted"


async def test_half_a_frame_is_waited_for_and_no_longer() -> None:
    client = Client(Site())
    client.sends(PREFACE + frame(SETTINGS, 0, 0, b""))
    client.sends(frame(DATA, 0, 0, bytes(100))[:20])
    client.after(FRAME_S - 2)
    assert client.hits("connection.frame") == 0
    client.after(FRAME_S)
    assert client.hits("connection.frame") == 1


async def test_a_late_frame_is_counted_as_that_and_nothing_else() -> None:
    client = Client(Site())
    client.sends(PREFACE + frame(SETTINGS, 0, 0, b""))
    client.sends(frame(DATA, 0, 0, bytes(100))[:20])
    client.after(FRAME_S)
    await asyncio.sleep(0)  # the end of the connection is sent
    assert client.state == "closed"
    assert client.hits("connection.frame") == 1
    assert client.hits("connection.frames") == 0


async def test_a_client_that_breaks_the_rules_is_logged() -> None:
    client = Client(Site())
    with capture_logs() as lines:
        client.sends(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(DATA, 0, 1, b"x"))
        await asyncio.sleep(0)
    assert client.state == "closed"
    (line,) = [each for each in lines if each["event"] == "connection_refused"]
    assert "idle" in line["reason"]
    assert client.hits("connection.frames") == 0


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.INTERNAL_ERROR])
async def test_a_client_that_goes_away_is_no_flood_whatever_its_reason(code: ErrorCode) -> None:
    client = Client(Site())
    with capture_logs() as lines:
        client.sends(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, 1, 0, b""))
        client.sends(frame(GOAWAY, 0, 0, bytes(4) + code.to_bytes(4, "big")))
        await asyncio.sleep(0)
    assert client.state == "closed"
    assert client.hits("connection.frames") == 0
    assert not [each for each in lines if each["event"] == "connection_refused"]


async def test_a_client_that_is_gone_without_a_word_is_forgotten() -> None:
    client = Client(Site())
    client.sends(PREFACE + frame(SETTINGS, 0, 0, b""))
    client.after(SILENT_S)
    assert client.state == "open"
    client.after(SILENT_S + DEAD_S)
    assert client.state == "aborted"


async def test_records_of_tls_that_come_in_parts_are_no_flood(tmp_path: Path) -> None:
    tls = layer_of(TlsSite(tmp_path).contexts())
    there = TlsClient(None, ["h2"])
    there.talk(tls)
    client = Client(Site(), tls)
    await asyncio.sleep(0)  # the settings are sent, which allow so much
    client.sends(there.says(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, 1, 0, b"")))
    for stream in range(1, 100, 2):
        begun = there.says(call(stream, "Wait", b"")[0])
        data = (frame(DATA, 0, stream, bytes(size)) for size in (2**14 - 9, 400))
        client.sends(begun + b"".join(there.says(each) for each in data))
    assert client.state == "open"
    assert client.hits("connection.frames") == 0
    client.connection.connection_lost(None)


class Sender:
    """A call that waits until what it has sent is on its way."""

    def __init__(self) -> None:
        self.woken = 0

    def wake_sender(self) -> None:
        self.woken += 1


async def test_who_sends_is_woken_when_the_socket_takes_more_though_nothing_is_left() -> None:
    client, sender = Client(Site()), Sender()
    client.socket._slow = True
    client.connection.waiting.add(sender)
    client.sends(PREFACE + frame(SETTINGS, 0, 0, b""))
    await asyncio.sleep(0)
    assert client.connection.is_paused  # by its settings, which are all that it has to send
    assert not client.connection.session.has_output()
    assert sender.woken == 0
    client.connection.resume_writing()
    await asyncio.sleep(0)
    assert sender.woken == 1
