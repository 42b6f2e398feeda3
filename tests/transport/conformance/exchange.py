"""A client that writes frame by frame, and reads what is answered; without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import hpack

from federation.transport.connection import Http2Connection
from federation.transport.session import Http2Settings
from tests.transport.test_fuzz import Socket
from tests.transport.test_server import Site
from tests.transport.wire import GOAWAY, HEADERS_FRAME, PING, PREFACE, RST_STREAM, SETTINGS, frame

STREAMS, WINDOW = 4, 2**16
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20

Fields = Sequence[tuple[bytes, bytes]]


class Code(IntEnum):
    """Error codes (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Sent(NamedTuple):
    """A frame that the transport sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def fields_of(
    method: str = "Wait", changed: Mapping[bytes, bytes | None] | None = None
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a call; changed: those that differ, or are left out."""
    found: dict[bytes, bytes | None] = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"/test.Waits/{method}".encode(),
        b":authority": b"node",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        **(changed or {}),
    }
    return [(name, value) for name, value in found.items() if value is not None]


def block(fields: Fields | None = None) -> bytes:
    """Return headers packed without any state (RFC 7541, section 6.2.3); those of a call."""
    packed = [hpack.NeverIndexedHeaderTuple(*each) for each in fields or fields_of()]
    return hpack.Encoder().encode(packed, huffman=False)


def headers(
    stream: int, fields: Fields | None = None, *, end: bool = False, flags: int = END_HEADERS
) -> bytes:
    """Return a HEADERS frame."""
    return frame(HEADERS_FRAME, flags | (END_STREAM if end else 0), stream, block(fields))


class Case(NamedTuple):
    """What a client sends behind its preface, and what it is told in return."""

    rule: str  # the section, and what is tried
    data: bytes
    outcome: Sequence[str]


ALIVE = frame(PING, 0, 0, b"are you?")  # sent behind what must not end the connection


def dead(code: Code) -> list[str]:
    """Return the outcome of an error of the connection (RFC 9113, section 5.4.1)."""
    return [f"GOAWAY {code.name}", "closed"]


def reset(code: Code, stream: int = 1) -> list[str]:
    """Return the outcome of an error of a stream, ALIVE behind it (section 5.4.2)."""
    return ["PING", f"RST_STREAM {stream} {code.name}"]


async def check(case: Case) -> None:
    """Send what a case sends, and fail unless the outcome is its."""
    exchange = Exchange()
    await exchange.begin()
    await exchange.send(case.data)
    found = exchange.outcome()
    await exchange.end()
    assert found == list(case.outcome), found


class Exchange:
    """One connection of a client, to a site whose handlers wait."""

    def __init__(self) -> None:
        self.site = Site()
        self.connection = Http2Connection(self.site.server, Http2Settings(STREAMS, WINDOW), None)
        self.socket = _Kept(self.connection)
        self.connection.connection_made(self.socket)

    async def begin(self, settings: bytes = b"") -> None:
        """Say what every connection begins with (RFC 9113, section 3.4)."""
        await self.send(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, ACK, 0, b""))
        self.socket.data.clear()

    async def send(self, data: bytes) -> None:
        """Send bytes, and have what comes of them done."""
        while data and not self.socket.closed:
            buffer = self.connection.get_buffer(-1)
            piece, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
        for _ in range(8):
            await asyncio.sleep(0)

    def sent(self) -> list[Sent]:
        """Return the frames that were sent since begin()."""
        data, found = bytes(self.socket.data), []
        while data:
            end = 9 + int.from_bytes(data[:3], "big")
            stream = int.from_bytes(data[5:9], "big")
            found.append(Sent(data[3], data[4], stream, data[9:end]))
            data = data[end:]
        return found

    def outcome(self) -> list[str]:
        """Return what a client has to know: errors, answers, their ends, answers to PINGs."""
        found, decoder = [], hpack.Decoder()
        for kind, flags, stream, payload in self.sent():
            if kind == GOAWAY:
                found.append(f"GOAWAY {Code(int.from_bytes(payload[4:8], 'big')).name}")
            elif kind == RST_STREAM:
                found.append(f"RST_STREAM {stream} {Code(int.from_bytes(payload, 'big')).name}")
            elif kind == HEADERS_FRAME:
                said: dict[Any, Any] = dict(decoder.decode(payload))
                status = said.get("grpc-status", said.get(":status"))
                found.append(
                    f"{'status' if 'grpc-status' in said else 'HEADERS'} {stream} {status}"
                )
            elif kind == PING and flags & ACK:
                found.append("PING")
        return found + (["closed"] if self.socket.closed else [])

    async def end(self) -> None:
        """Lose the connection; its calls end."""
        self.connection.connection_lost(None)
        async with asyncio.timeout(20):
            while self.site.runtime.calls.count:  # noqa: ASYNC110 - their tasks are cancelled
                await asyncio.sleep(0)
        await self.site.server.stop(0)


class _Kept(Socket):
    """A transport that keeps what is written."""

    def __init__(self, connection: Http2Connection) -> None:
        super().__init__(connection, random.Random(0))
        self._slow = False
        self.data = bytearray()

    def write(self, data: Any) -> None:
        self.data += data
