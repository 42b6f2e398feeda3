"""Broken messages, odd metadata and raw sockets: W33, W41, W43. The node lives and goes on."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterable
from functools import partial

import grpc
import pytest

from federation.core.digest import digest_of
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import Client, outcome


@pytest.fixture
def node(shared_node: Node) -> Node:
    """Noise leaves no mark, so one node hears all of it."""
    return shared_node


_IA, _UI = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED
_RE = "build.bazel.remote.execution.v2"
_UNARY = [
    f"{_RE}.ContentAddressableStorage/FindMissingBlobs",
    f"{_RE}.ContentAddressableStorage/BatchUpdateBlobs",
    f"{_RE}.ContentAddressableStorage/BatchReadBlobs",
    f"{_RE}.ActionCache/GetActionResult",
    f"{_RE}.ActionCache/UpdateActionResult",
    f"{_RE}.Capabilities/GetCapabilities",
    "build.bazel.remote.asset.v1.Fetch/FetchBlob",
    "build.bazel.remote.asset.v1.Fetch/FetchDirectory",
    "build.bazel.remote.asset.v1.Push/PushBlob",
    "build.bazel.remote.asset.v1.Push/PushDirectory",
    "google.bytestream.ByteStream/QueryWriteStatus",
]
_STREAMS = [
    f"{_RE}.ContentAddressableStorage/GetTree",
    "google.bytestream.ByteStream/Read",
]
_MESSAGES = {
    "nested groups": b"\x0b" * 10_000,
    "over-long varint": b"\x08" + b"\xff" * 11 + b"\x01",
    "length past the end": b"\x0a\xff\xff\xff\xff\x07abc",
    "length of 2^63": b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    "bad UTF-8": b"\x0a\x04\xff\xfe\xfd\xfc",
    "wire type 7": b"\x0f\x00",
    "field number 0": b"\x00\x00",
    "unended group": b"\x0b\x0b",
    "random": os.urandom(500),
}


@pytest.mark.parametrize("message", _MESSAGES)
def test_w33_a_message_that_is_no_protobuf_fails_alone(
    message: str, node: Node, client: Client
) -> None:
    data = _MESSAGES[message]
    for method in _UNARY:
        call = client.channel.unary_unary(f"/{method}", None, None)
        code = outcome(partial(call, data, timeout=60))
        assert code is _IA, f"{method}: {code}"
    for method in _STREAMS:
        stream = client.channel.unary_stream(f"/{method}", None, None)
        code = outcome(partial(_read_all, stream, data))
        assert code is _IA, f"{method}: {code}"
    write = client.channel.stream_unary("/google.bytestream.ByteStream/Write", None, None)
    assert outcome(lambda: write(iter([data]), timeout=60)) is _IA
    _assert_well(node, client)


def _read_all(call: Callable[..., Iterable[bytes]], request: bytes) -> list[bytes]:
    return list(call(request, timeout=60))


def _assert_well(node: Node, client: Client) -> None:
    data = os.urandom(5000)
    assert client.write(data) == len(data)
    assert client.read(digest_of(data)) == data
    assert node.running
    assert "Traceback" not in node.log, node.log_tail


@pytest.mark.parametrize(
    "metadata",
    [
        [("x-large", "a" * 65_000)],
        [(f"x-{n}", "v") for n in range(1000)],
        [("x-garbage-bin", os.urandom(300))],
        [(f"{_RE}.requestmetadata-bin", os.urandom(300))],
        [(f"{_RE}.requestmetadata-bin", b"")],
        [("x-latin", b"\xff\xfe\x80")],
    ],
    ids=["64 KiB", "1000 fields", "binary", "garbled REAPI metadata", "empty", "non-ASCII"],
)
def test_w41_odd_metadata_is_served_or_rejected_and_never_hangs(
    metadata: list[tuple[str, str | bytes]], node: Node, client: Client
) -> None:
    call = client.channel.unary_unary(f"/{_RE}.Capabilities/GetCapabilities", None, None)
    code = outcome(lambda: call(b"", metadata=tuple(metadata), timeout=60))
    assert code is not grpc.StatusCode.DEADLINE_EXCEEDED
    _assert_well(node, client)


@pytest.mark.parametrize("timeout", [b"0n", b"99999999H", b"text", b"-1S", b"1" * 500])
def test_w41_odd_timeouts_are_served_or_rejected_and_never_hang(
    timeout: bytes, node: Node, client: Client
) -> None:
    with _raw_call(node, timeout) as raw:
        wait_until(lambda: _answered(raw), "an answer or the end of the connection")
    _assert_well(node, client)


def _connect(node: Node) -> socket.socket:
    host, _, port = node.address.rpartition(":")
    raw = socket.create_connection((host, int(port)), timeout=60)
    raw.settimeout(30)
    return raw


def _raw_call(node: Node, timeout: bytes) -> socket.socket:
    """GetCapabilities in HTTP/2 frames made by hand, with any grpc-timeout."""
    raw = _connect(node)
    method = f"/{_RE}.Capabilities/GetCapabilities".encode()
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-timeout", timeout),
    ]
    block = b"".join(b"\x00" + _hpack(name) + _hpack(value) for name, value in fields)
    raw.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(4, 0, 0, b"")
        + _frame(1, 4, 1, block)
        + _frame(0, 1, 1, b"\x00\x00\x00\x00\x00")
    )
    return raw


def _hpack(text: bytes) -> bytes:
    """A literal string of HPACK (RFC 7541, 5.2), not Huffman-coded."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + text


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _answered(raw: socket.socket) -> bool:
    """Whether the stream was answered (HEADERS or RST_STREAM on it) or the connection closed."""
    try:
        data = raw.recv(65536)
    except ConnectionError:
        return True
    if not data:
        return True
    while len(data) >= 9:
        length, kind, stream = int.from_bytes(data[:3]), data[3], int.from_bytes(data[5:9])
        if stream == 1 and kind in (1, 3):
            return True
        data = data[9 + length :]
    return False


_HALF_FRAME = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + b"\x00\x10\x00\x00"


def _tls_hello() -> bytes:
    """The first bytes that a TLS client sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody ended")


@pytest.mark.parametrize(
    "hello",
    [
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: b"PRI * HTTP/1.0\r\n\r\n" + os.urandom(2000),
        lambda: os.urandom(5000),
        _tls_hello,
    ],
    ids=["HTTP/1.1", "bad preface", "random", "TLS on a plain port"],
)
def test_w43_what_is_no_http2_is_closed(
    hello: Callable[[], bytes], node: Node, client: Client
) -> None:
    with _connect(node) as raw:
        raw.sendall(hello())
        wait_until(lambda: _closed(raw), "the connection to be closed")
    _assert_well(node, client)


def _closed(raw: socket.socket) -> bool:
    try:
        return raw.recv(65536) == b""
    except ConnectionError:
        return True


@pytest.mark.heavy
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("start", "within_s"),
    [
        (b"", 20),
        (b"PRI * HT", 20),
        (_HALF_FRAME[:24], 20),
        (_HALF_FRAME, 310),  # it has greeted: the answer to our settings is waited for
    ],
)
def test_w43_half_a_handshake_then_silence_is_closed_within_the_limit(
    start: bytes, within_s: float, node: Node, client: Client
) -> None:
    with _connect(node) as raw:
        raw.settimeout(within_s)
        raw.sendall(start)
        wait_until(lambda: _closed(raw), "the connection to be closed", timeout_s=within_s)
    _assert_well(node, client)


def test_w43_a_flood_of_bad_connections_does_not_flood_the_log(node: Node, client: Client) -> None:
    before = len(node.log)
    for _ in range(300):
        with _connect(node) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            wait_until(partial(_closed, raw), "the connection to be closed")
    assert len(node.log) - before < 20_000, node.log_tail
    _assert_well(node, client)
