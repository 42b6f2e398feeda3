"""RFC 9113, sections 6 and 7: each type of frame, and error codes."""

from __future__ import annotations

import pytest

from tests.transport.conformance.exchange import (
    ACK,
    ALIVE,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITY_FLAG,
    Case,
    Code,
    Exchange,
    Sent,
    block,
    check,
    dead,
    fields_of,
    headers,
)
from tests.transport.wire import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS_FRAME,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

ECHO = headers(1, fields_of("Echo"))
HELLO = b"\0\0\0\0\x05hello"
ANSWERED = ["HEADERS 1 200", "status 1 0"]
WHOLE = block(fields_of("Echo"))
MOST = b"\x7f\xff\xff\xff"


def setting(number: int, value: int) -> bytes:
    """Return a SETTINGS frame of one."""
    return frame(SETTINGS, 0, 0, number.to_bytes(2, "big") + value.to_bytes(4, "big"))


CASES = [
    Case(
        "6.1 DATA with padding",
        ECHO + frame(DATA, PADDED | END_STREAM, 1, b"\x06" + HELLO + bytes(6)),
        ANSWERED,
    ),
    Case(
        "6.1 DATA in several frames",
        ECHO + frame(DATA, 0, 1, HELLO[:7]) + frame(DATA, 1, 1, HELLO[7:]),
        ANSWERED,
    ),
    Case("6.1 DATA on stream 0", frame(DATA, 0, 0, b"x"), dead(Code.PROTOCOL_ERROR)),
    Case(
        "6.1 more padding than DATA",
        ECHO + frame(DATA, PADDED, 1, b"\x06hello"),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.2 HEADERS with padding and priority",
        frame(
            HEADERS_FRAME,
            END_HEADERS | PADDED | PRIORITY_FLAG,
            1,
            b"\x03\0\0\0\0\x10" + WHOLE + bytes(3),
        )
        + frame(DATA, 1, 1, HELLO),
        ANSWERED,
    ),
    Case("6.2 HEADERS on stream 0", headers(0), dead(Code.PROTOCOL_ERROR)),
    Case(
        "6.2 more padding than HEADERS",
        frame(HEADERS_FRAME, END_HEADERS | PADDED, 1, b"\xff" + WHOLE),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.3 PRIORITY, of any weight and dependency, is ignored",
        frame(PRIORITY, 0, 1, b"\0\0\0\0\xff")
        + frame(PRIORITY, 0, 3, b"\x80\0\0\1\0")
        + frame(PRIORITY, 0, 5, b"\0\0\0\5\0")
        + ECHO
        + frame(DATA, 1, 1, HELLO),
        ANSWERED,
    ),
    Case(
        "6.3 PRIORITY on stream 0 is ignored, too",
        frame(PRIORITY, 0, 0, bytes(5)) + ALIVE,
        ["PING"],
    ),
    Case(
        "6.3 PRIORITY of another length",
        headers(1) + frame(PRIORITY, 0, 1, bytes(4)),
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "6.4 RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, bytes(4)), dead(Code.PROTOCOL_ERROR)
    ),
    Case(
        "6.4 RST_STREAM on an idle stream",
        frame(RST_STREAM, 0, 1, bytes(4)),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.4 RST_STREAM of another length",
        headers(1) + frame(RST_STREAM, 0, 1, bytes(3)),
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "6.5 SETTINGS with ACK and a payload",
        frame(SETTINGS, ACK, 0, b"x"),
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), dead(Code.PROTOCOL_ERROR)),
    Case(
        "6.5 SETTINGS of half a setting",
        frame(SETTINGS, 0, 0, b"\0\3\0"),
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case("6.5.2 ENABLE_PUSH of 2", setting(2, 2), dead(Code.PROTOCOL_ERROR)),
    Case(
        "6.5.2 INITIAL_WINDOW_SIZE above 2^31-1", setting(4, 2**31), dead(Code.FLOW_CONTROL_ERROR)
    ),
    Case("6.5.2 MAX_FRAME_SIZE below 2^14", setting(5, 2**14 - 1), dead(Code.PROTOCOL_ERROR)),
    Case("6.5.2 MAX_FRAME_SIZE above 2^24-1", setting(5, 2**24), dead(Code.PROTOCOL_ERROR)),
    Case("6.5.2 an unknown setting is ignored", setting(0xFF, 1) + ALIVE, ["PING"]),
    Case(
        "6.6 a client's PUSH_PROMISE",
        headers(1) + frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + WHOLE),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case("6.7 PING", ALIVE, ["PING"]),
    Case("6.7 an answer to no PING is ignored", frame(PING, ACK, 0, bytes(8)) + ALIVE, ["PING"]),
    Case("6.7 PING on a stream", frame(PING, 0, 1, bytes(8)), dead(Code.PROTOCOL_ERROR)),
    Case("6.7 PING of another length", frame(PING, 0, 0, bytes(6)), dead(Code.FRAME_SIZE_ERROR)),
    Case("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), dead(Code.PROTOCOL_ERROR)),
    Case("6.9 WINDOW_UPDATE of 0", frame(WINDOW_UPDATE, 0, 0, bytes(4)), dead(Code.PROTOCOL_ERROR)),
    Case(
        "6.9 WINDOW_UPDATE of 0 on a stream",
        headers(1) + frame(WINDOW_UPDATE, 0, 1, bytes(4)),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.9 WINDOW_UPDATE of another length",
        frame(WINDOW_UPDATE, 0, 0, bytes(3)),
        dead(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "6.9.1 a window above 2^31-1",
        frame(WINDOW_UPDATE, 0, 0, MOST),
        dead(Code.FLOW_CONTROL_ERROR),
    ),
    # A stream error would do; RFC 9113, section 5.4.1, lets it be one of the connection.
    Case(
        "6.9.1 a stream's window above 2^31-1",
        headers(1) + frame(WINDOW_UPDATE, 0, 1, MOST),
        dead(Code.FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.9.1 more DATA than a stream's window",
        headers(1) + frame(DATA, 0, 1, bytes(2**14)) * 5,
        dead(Code.FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.9.2 SETTINGS that make a window too large",
        headers(1) + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") + setting(4, 2**31 - 1),
        dead(Code.FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION",
        frame(HEADERS_FRAME, 0, 1, WHOLE[:5])
        + frame(CONTINUATION, 0, 1, WHOLE[5:9])
        + frame(CONTINUATION, END_HEADERS, 1, WHOLE[9:])
        + frame(DATA, 1, 1, HELLO),
        ANSWERED,
    ),
    Case(
        "6.10 CONTINUATION on stream 0",
        headers(1, flags=0) + frame(CONTINUATION, 4, 0, b""),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION behind whole HEADERS",
        headers(1) + frame(CONTINUATION, 4, 1, b""),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION behind a last one",
        headers(1, flags=0) + frame(CONTINUATION, 4, 1, b"") * 2,
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION behind DATA",
        headers(1) + frame(DATA, 0, 1, b"x") + frame(CONTINUATION, 4, 1, b""),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "6.10 another frame instead of CONTINUATION",
        headers(1, flags=0) + frame(DATA, 0, 1, b"x"),
        dead(Code.PROTOCOL_ERROR),
    ),
    Case(
        "7 an unknown error code of a stream",
        headers(1) + frame(RST_STREAM, 0, 1, b"\0\0\0\xff") + ALIVE,
        ["PING"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.rule)
async def test_rfc_9113(case: Case) -> None:
    await check(case)


@pytest.mark.parametrize("code", [0, 0xFF])
async def test_6_8_a_client_that_goes_away_has_its_calls_answered(code: int) -> None:
    exchange = Exchange()
    await exchange.begin()
    goes = frame(GOAWAY, 0, 0, bytes(4) + code.to_bytes(4, "big") + b"for a reason")
    await exchange.send(ECHO + goes + frame(DATA, 1, 1, HELLO))
    assert exchange.outcome()[:2] == ANSWERED
    await exchange.end()


async def test_6_9_answers_wait_for_the_windows_of_streams() -> None:
    exchange = Exchange()
    await exchange.begin()
    await exchange.send(setting(4, 3) + ECHO + frame(DATA, 1, 1, HELLO))
    assert [each.payload for each in exchange.sent() if each.kind == DATA] == [HELLO[:3]]
    await exchange.send(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))
    assert [each.payload for each in exchange.sent() if each.kind == DATA][1:] == [HELLO[3:4]]
    await exchange.send(setting(4, 0))  # less than nothing is left of the window: 6.9.2
    await exchange.send(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\3"))
    assert b"".join(each.payload for each in exchange.sent() if each.kind == DATA) == HELLO[:4]
    await exchange.send(setting(4, 100))
    assert b"".join(each.payload for each in exchange.sent() if each.kind == DATA) == HELLO
    assert exchange.outcome() == ANSWERED
    await exchange.end()


async def test_6_5_3_each_settings_frame_is_acknowledged_and_the_last_value_counts() -> None:
    exchange = Exchange()
    await exchange.begin()
    twice = b"\0\4\0\0\0\0" + b"\0\4\0\0\0\2"
    await exchange.send(frame(SETTINGS, 0, 0, twice) + ECHO + frame(DATA, 1, 1, HELLO))
    assert [each.payload for each in exchange.sent() if each.kind == DATA] == [HELLO[:2]]
    await exchange.send(frame(SETTINGS, 0, 0, b""))
    assert exchange.sent().count(Sent(SETTINGS, ACK, 0, b"")) == 2
    await exchange.end()
