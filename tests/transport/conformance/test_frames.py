"""RFC 9113, sections 3 to 5: the preface, frames, the states of streams, errors, extensions."""

from __future__ import annotations

import pytest

from tests.transport.conformance.exchange import (
    ACK,
    ALIVE,
    END_HEADERS,
    STREAMS,
    WINDOW,
    Case,
    Code,
    Exchange,
    Sent,
    check,
    dead,
    fields_of,
    headers,
)
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

ECHO = headers(1, fields_of("Echo"))
HELLO = b"\0\0\0\0\x05hello"
OVER = ECHO + frame(DATA, 1, 1, HELLO)  # a call that is answered at once
ANSWERED = ["HEADERS 1 200", "status 1 0"]
CANCEL = frame(RST_STREAM, 0, 1, bytes([0, 0, 0, 8]))
UNKNOWN = frame(0xBB, 0xFF, 1, b"of an extension")

CASES = [
    Case("4.1 a frame of an unknown type is ignored", UNKNOWN + ALIVE, ["PING"]),
    Case("4.1 an undefined flag is ignored", frame(PING, 0x16, 0, bytes(8)), ["PING"]),
    Case(
        "4.1 the reserved bit of a stream is ignored",
        frame(PING, 0, 2**31, bytes(8)),
        ["PING"],
    ),
    Case(
        "4.2 a frame of 2^14 bytes is taken",
        ECHO + frame(DATA, 0, 1, b"\0\0\0\x40\0" + bytes(2**14 - 5)) + frame(DATA, 1, 1, bytes(5)),
        ANSWERED,
    ),
    Case(
        "4.2 a larger DATA frame",
        ECHO + frame(DATA, 0, 1, bytes(2**14 + 1)),
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "4.2 a larger HEADERS frame",
        frame(HEADERS_FRAME, END_HEADERS, 1, bytes(2**14 + 1)),
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "4.3 a block of headers that cannot be unpacked",
        frame(HEADERS_FRAME, END_HEADERS, 1, b"\x40\x85\xf2\xb2J\x87\xff"),
        dead(Code.COMPRESSION_ERROR),
    ),
    Case(
        "4.3 another frame within a block of headers",
        headers(1, flags=0) + frame(PRIORITY, 0, 1, bytes(5)),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "4.3 another stream's HEADERS within a block of headers",
        headers(1, flags=0) + headers(3),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case("5.1 idle: DATA", frame(DATA, 0, 1, b"x"), dead(Code.PROTOCOL_ERROR)),
    Case("5.1 idle: RST_STREAM", CANCEL, dead(Code.PROTOCOL_ERROR)),
    Case(
        "5.1 idle: WINDOW_UPDATE",
        frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case("5.1 idle: CONTINUATION", frame(CONTINUATION, 4, 1, b""), dead(Code.PROTOCOL_ERROR)),
    Case("5.1 idle: PRIORITY is ignored", frame(PRIORITY, 0, 1, bytes(5)) + ALIVE, ["PING"]),
    Case(
        "5.1 half-closed (remote): DATA",
        headers(1, end=True) + frame(DATA, 0, 1, b"x"),
        dead(Code.STREAM_CLOSED),
    ),
    Case(
        "5.1 half-closed (remote): HEADERS",
        headers(1, end=True) + headers(1),
        dead(Code.STREAM_CLOSED),
    ),
    Case(
        "5.1 half-closed (remote): CONTINUATION",
        headers(1, end=True) + frame(CONTINUATION, 4, 1, b""),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "5.1 half-closed (remote): WINDOW_UPDATE and PRIORITY are taken",
        headers(1)
        + frame(DATA, 1, 1, HELLO)
        + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
        + frame(PRIORITY, 0, 1, bytes(5))
        + ALIVE,
        ["PING"],
    ),
    Case("5.1 half-closed (remote): RST_STREAM", headers(1, end=True) + CANCEL + ALIVE, ["PING"]),
    # Of a closed stream everything may be ignored, as it may have been under way.
    Case(
        "5.1 closed by a reset: DATA",
        headers(1) + CANCEL + frame(DATA, 1, 1, b"x") + ALIVE,
        ["PING"],
    ),
    Case("5.1 closed by a reset: HEADERS", headers(1) + CANCEL + headers(1) + ALIVE, ["PING"]),
    Case("5.1 closed by a reset: RST_STREAM", headers(1) + CANCEL + CANCEL + ALIVE, ["PING"]),
    Case(
        "5.1 closed by a reset: CONTINUATION",
        headers(1) + CANCEL + frame(CONTINUATION, 4, 1, b""),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case("5.1.1 a stream of an even number", headers(2), dead(Code.PROTOCOL_ERROR)),
    Case(
        "5.1.1 a lower stream is taken for one that is closed",
        headers(5) + headers(3) + ALIVE,
        ["PING"],
    ),
    Case(
        "5.1.2 more streams than are allowed",
        b"".join(headers(2 * at + 1) for at in range(STREAMS + 1)),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "5.1.2 a closed stream makes room",
        b"".join(headers(2 * at + 1) for at in range(STREAMS)) + CANCEL + headers(99) + ALIVE,
        ["PING"],
    ),
    Case(
        "5.4.1 an error of the connection", frame(PING, 0, 0, b"short"), dead(Code.FRAME_SIZE_ERROR)
    ),
    Case(
        "5.4.1 nothing is done behind an error",
        frame(PING, 0, 0, b"short") + ALIVE + OVER,
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "5.5 an extension's frame within a block of headers",
        headers(1, flags=0) + UNKNOWN,
        dead(Code.PROTOCOL_ERROR),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.rule)
async def test_rfc_9113(case: Case) -> None:
    await check(case)


async def test_3_4_the_server_says_its_settings_first_and_answers_the_clients() -> None:
    exchange = Exchange()
    await exchange.send(PREFACE + frame(SETTINGS, 0, 0, b""))
    first, *others = exchange.sent()
    assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
    pairs = [first.payload[at : at + 6] for at in range(0, len(first.payload), 6)]
    said = {int.from_bytes(each[:2], "big"): int.from_bytes(each[2:], "big") for each in pairs}
    assert said[3] == STREAMS
    assert said[4] == WINDOW
    assert Sent(SETTINGS, ACK, 0, b"") in others
    await exchange.end()


@pytest.mark.parametrize(
    "data",
    [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", bytes(24)],
)
async def test_3_4_what_does_not_begin_with_the_preface_is_closed(data: bytes) -> None:
    exchange = Exchange()
    await exchange.send(data)
    assert exchange.outcome()[-1] == "closed"
    await exchange.end()


async def test_3_4_the_preface_is_followed_by_settings() -> None:
    exchange = Exchange()
    await exchange.send(PREFACE + ALIVE)
    assert exchange.outcome()[-2:] == dead(Code.PROTOCOL_ERROR)
    await exchange.end()


@pytest.mark.parametrize("late", [frame(DATA, 1, 1, b"x"), headers(1, end=True), CANCEL])
async def test_5_1_closed_by_both_sides_whatever_comes_is_ignored(late: bytes) -> None:
    exchange = Exchange()
    await exchange.begin()
    await exchange.send(OVER)
    assert exchange.outcome() == ANSWERED
    await exchange.send(late + ALIVE)
    assert exchange.outcome() == [*ANSWERED, "PING"]
    await exchange.end()
