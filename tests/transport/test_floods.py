"""Floods on one connection: each is ended, and honest clients that do as much useful are not."""

from __future__ import annotations

import pytest

from federation.transport.session import Refused
from tests.transport.wire import (
    CONTINUATION,
    DATA,
    HEADERS,
    HEADERS_FRAME,
    PING,
    PRIORITY,
    SETTINGS,
    WINDOW_UPDATE,
    Pair,
    frame,
)

ROUNDS, EACH = 100, 1000
_END_HEADERS = 4


FLOODS: dict[str, bytes] = {
    "ping": frame(PING, 0, 0, bytes(8)) * EACH,
    "ping answers": frame(PING, 1, 0, bytes(8)) * EACH,
    "settings": frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64") * EACH,
    "empty settings": frame(SETTINGS, 0, 0, b"") * EACH,
    "window updates": frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")) * EACH,
    "windows of a stream": frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")) * EACH,
    "priority": frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * EACH,
    "frames of one byte": frame(DATA, 0, 1, b"x") * EACH,
    "empty frames": frame(DATA, 0, 1, b"") * EACH,
    "padding": frame(DATA, 8, 1, b"\xff" + bytes(255)) * EACH,
    "unknown frames": frame(0xBB, 0, 0, bytes(100)) * EACH,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames_ends_its_connection(name: str) -> None:
    pair = Pair()
    pair.call()
    assert any(is_ended_by(pair, FLOODS[name]) for _ in range(ROUNDS))


def is_ended_by(pair: Pair, data: bytes) -> bool:
    """Send data on a connection whose streams are read; say whether that ends it as a flood."""
    try:
        pair.raw(data)
    except Refused as error:
        return error.limit == "connection.frames"
    pair.read(1)
    return pair.is_ended_for_a_flood()


def test_rapid_resets_end_their_connection() -> None:
    pair = Pair()
    for _ in range(10_000):
        stream = pair.client.send_request(HEADERS)
        begun = pair.client.data_to_send()
        pair.client.reset_stream(stream)
        pair.raw(begun + pair.client.data_to_send())
        if pair.is_ended_for_a_flood():
            return
    pytest.fail("10,000 streams were reset at once")


def test_a_block_of_headers_has_a_bounded_number_of_frames() -> None:
    pair = Pair()
    begun = frame(HEADERS_FRAME, 0, 1, b"\x83")
    with pytest.raises(Refused) as caught:
        pair.raw(begun + frame(CONTINUATION, 0, 1, b"\x83") * 20)
    assert caught.value.limit == "connection.frames"


def test_headers_that_unpack_to_megabytes_end_their_connection() -> None:
    pair = Pair()
    value = b"x" * 3000
    stored = b"\x40\x01a" + b"\x7f" + _rest_of(3000 - 127) + value  # into the table of HPACK
    block = stored + b"\xbe" * 12_000  # and 12,000 times out of it
    with pytest.raises(Refused) as caught:
        pair.raw(frame(HEADERS_FRAME, _END_HEADERS, 1, block))
    assert caught.value.limit == "connection.frames"


def _rest_of(number: int) -> bytes:
    """Return an integer of HPACK (RFC 7541, section 5.1) behind its full prefix."""
    found = bytearray()
    while number >= 128:
        found.append(number % 128 + 128)
        number //= 128
    return bytes([*found, number])


def test_answers_that_a_client_does_not_take_are_bounded() -> None:
    pair = Pair()
    with pytest.raises(Refused) as caught:
        pair.raw(frame(PING, 0, 0, bytes(8)) * 5000)  # and nothing is sent meanwhile
    assert caught.value.limit == "connection.frames"


def test_many_small_calls_are_no_flood() -> None:
    pair = Pair()
    for _ in range(5000):
        stream = pair.call(b"\0\0\0\0\x05hello", end=True)
        pair.session.acknowledge(stream, 10)
        pair.session.begin(stream, [(b":status", b"200"), (b"grpc-status", b"0")], end=True)
        pair.exchange()


def test_a_large_upload_in_small_messages_is_no_flood() -> None:
    pair = Pair()
    stream = pair.call()
    for _ in range(50_000):
        data = b"\0\0\0\0\x0d" + b"resource name"  # 18 bytes in a frame of its own: 27
        pair.client.send_data(stream, data)
        pair.exchange()
        pair.session.acknowledge(stream, len(data))


def test_a_large_download_is_no_flood() -> None:
    pair = Pair()
    stream = pair.call(end=True)
    pair.session.begin(stream, [(b":status", b"200")])
    for _ in range(200):
        pair.session.send(stream, bytes(2**18))
        pair.exchange()  # the client announces each window anew
    assert pair.session.queued_bytes() == 0


def test_what_a_client_says_over_time_is_no_flood() -> None:
    pair = Pair()
    for _ in range(3600):
        pair.now_s += 1.0
        pair.raw(frame(PING, 0, 0, bytes(8)) * 10)
        pair.exchange()
