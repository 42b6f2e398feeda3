"""Floods against the node's own HTTP/2, beside an honest client."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import hpack
import pytest

from tests.attacks.harness import ATTACKER, MIB, Attacked
from tests.attacks.raw_calls import kept_up
from tests.attacks.test_connections import closed, connect
from tests.support.polling import wait_until
from tests.transport.wire import (
    CONTINUATION,
    DATA,
    HEADERS_FRAME,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

HTTP2 = {"transport": "http2"}
WRITE = "/google.bytestream.ByteStream/Write"
EACH = 2000
_END_HEADERS = 4
_TIMEOUT_S = 20


def block(path: str = WRITE) -> bytes:
    """Return the headers of a call, packed without any state."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "node"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*each) for each in fields])


def rapid_resets() -> bytes:
    """Return calls that are reset at once."""
    headers = block()
    begun = ((at, frame(HEADERS_FRAME, _END_HEADERS, at, headers)) for at in range(3, 20_003, 2))
    return b"".join(each + frame(RST_STREAM, 0, at, bytes(4)) for at, each in begun)


FLOODS = {
    "ping": frame(PING, 0, 0, bytes(8)) * EACH,
    "settings": frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64") * EACH,
    "window updates": frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")) * EACH,
    "priority": frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * EACH,
    "frames of one byte": frame(DATA, 0, 1, b"\0") * EACH,
    "empty frames": frame(DATA, 0, 1, b"") * EACH,
    "padding": frame(DATA, 8, 1, b"\xff" + bytes(255)) * EACH,
    "continuation": frame(HEADERS_FRAME, 0, 3, block()) + frame(CONTINUATION, 0, 3, b"") * EACH,
    "unknown frames": frame(0xBB, 0, 0, bytes(100)) * EACH,
    "rapid resets": rapid_resets(),
}


def refused_calls(address: str) -> None:
    """Make calls that nobody serves, hundreds at once, until they are not answered at once."""
    with begun(address) as one, suppress(TimeoutError):
        one.settimeout(1.0)
        headers = block("/no.such/M")
        for first in range(3, 80_003, 800):
            numbers = range(first, first + 800, 2)
            one.sendall(b"".join(frame(HEADERS_FRAME, 5, at, headers) for at in numbers))
            one.recv(2**20)


@contextmanager
def begun(address: str) -> Iterator[socket.socket]:
    """Connect, and begin a call."""
    host, _, port = address.rpartition(":")
    with socket.create_connection(
        (host, int(port)), _TIMEOUT_S, source_address=(ATTACKER, 0)
    ) as one:
        settings = frame(SETTINGS, 0, 0, b"")
        one.sendall(PREFACE + settings + frame(HEADERS_FRAME, _END_HEADERS, 1, block()))
        yield one


def flood(address: str, data: bytes) -> None:
    """Send the same again and again until the node closes the connection."""
    try:
        with begun(address) as one:
            for _ in range(1000):
                one.sendall(data)
    except TimeoutError:
        raise
    except OSError:
        return
    raise AssertionError(f"the node took {1000 * len(data)} bytes")


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_and_takes_nothing_from_others(tmp_path: Path, name: str) -> None:
    with Attacked(tmp_path, open_to_all=True, settings=HTTP2) as node, node.watched() as seen:
        with kept_up(lambda: flood(node.node.address, FLOODS[name]), threads=2) as done:
            wait_until(lambda: done[0] >= 2, "two floods")
            seen.judge()
        node.check_limit_hit("connection.frames")


def test_headers_that_unpack_to_megabytes_are_refused(tmp_path: Path) -> None:
    encoder = hpack.Encoder()
    stored = encoder.encode([("a", "x" * 3000)])
    again = encoder.encode([("a", "x" * 3000)])
    assert len(again) == 1
    bomb = frame(HEADERS_FRAME, _END_HEADERS, 3, stored + again * 12_000)
    with Attacked(tmp_path, open_to_all=True, settings=HTTP2) as node, node.watched(16) as seen:
        with kept_up(lambda: flood(node.node.address, bomb), threads=2) as done:
            wait_until(lambda: done[0] >= 10, "ten bombs")
            seen.judge()
        node.check_limit_hit("connection.frames")


def test_calls_that_nobody_serves_take_no_turns_from_others(tmp_path: Path) -> None:
    with (
        Attacked(tmp_path, open_to_all=True, settings=HTTP2) as node,
        node.watched() as seen,
        kept_up(lambda: refused_calls(node.node.address), threads=4),
    ):
        node.check_limit_hit("calls.refused")
        seen.judge()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" * 20])
def test_w43_another_protocol_is_closed_at_once(tmp_path: Path, data: bytes) -> None:
    with Attacked(tmp_path, open_to_all=True, settings=HTTP2) as node, ExitStack() as stack:
        opened = connect(node.node.address, ATTACKER, 20, stack)
        for one in opened:
            one.sendall(data)
        wait_until(lambda: closed(opened) == len(opened), "all are closed")
        lines = node.node.log.count('"event": "connection_refused"')
        assert 1 <= lines <= 11


def test_plain_text_on_a_port_with_tls_is_closed_and_logged(tmp_path: Path) -> None:
    with Attacked(tmp_path, settings=HTTP2) as node, ExitStack() as stack:
        (one,) = connect(node.node.address, ATTACKER, 1, stack)
        one.sendall(PREFACE)
        wait_until(lambda: closed([one]) == 1, "it is closed")
        wait_until(lambda: "what came is not TLS" in node.node.log, "a line about it")


def test_windows_of_uploads_that_wait_are_bounded(tmp_path: Path) -> None:
    """Many streams whose handlers may not read yet hold their windows, and no more."""
    limits = {"uploads-per-caller": 1, "streams-per-connection": 400}
    with (
        Attacked(tmp_path, limits=limits, settings=HTTP2) as node,
        node.watched(memory_mib=64) as seen,
        node.connection() as raw,
    ):
        shown = node.bearer(node.attacker_token)
        for _ in range(300):
            raw.send(raw.call(WRITE[1:], shown), bytes(4 * MIB), patience_s=0.01)
        seen.judge()
