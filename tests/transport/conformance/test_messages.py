"""RFC 9113, section 8: what makes a request malformed. A malformed one reaches no handler."""

from __future__ import annotations

import pytest

from tests.transport.conformance.exchange import (
    ALIVE,
    Case,
    Code,
    Exchange,
    check,
    fields_of,
    headers,
    reset,
)
from tests.transport.wire import DATA, frame

MALFORMED = reset(Code.PROTOCOL_ERROR)
HELLO = b"\0\0\0\0\x05hello"


def without(name: bytes) -> list[tuple[bytes, bytes]]:
    return fields_of("Echo", {name: None})


def of_length(size_bytes: int) -> bytes:
    return headers(1, fields_of("Echo", {b"content-length": b"%d" % size_bytes}))


FIELDS = {
    "8.2.1 a name in upper case": [*fields_of(), (b"X-Name", b"x")],
    "8.2.1 a name with a space": [*fields_of(), (b"x name", b"x")],
    "8.2.1 an empty name": [*fields_of(), (b"", b"x")],
    "8.2.1 a line feed in a value": [*fields_of(), (b"x-name", b"a\nb")],
    "8.2.1 a zero in a value": [*fields_of(), (b"x-name", b"a\0b")],
    "8.2.2 connection": [*fields_of(), (b"connection", b"keep-alive")],
    "8.2.2 transfer-encoding": [*fields_of(), (b"transfer-encoding", b"chunked")],
    "8.2.2 upgrade": [*fields_of(), (b"upgrade", b"h2c")],
    "8.2.2 te other than trailers": fields_of(changed={b"te": b"trailers, deflate"}),
    "8.3 an unknown pseudo-header": [(b":test", b"x"), *fields_of()],
    "8.3 a pseudo-header of answers": [(b":status", b"200"), *fields_of()],
    "8.3 a pseudo-header behind a field": [*without(b":path"), (b":path", b"/test.Waits/Echo")],
    "8.3 :method twice": [(b":method", b"POST"), *fields_of()],
    "8.3 :scheme twice": [(b":scheme", b"http"), *fields_of()],
    "8.3 :path twice": [(b":path", b"/test.Waits/Echo"), *fields_of()],
    "8.3.1 an empty :path": fields_of(changed={b":path": b""}),
    "8.3.1 no :method": without(b":method"),
    "8.3.1 no :scheme": without(b":scheme"),
    "8.3.1 no :path": without(b":path"),
}

CASES = [Case(rule, headers(1, fields) + ALIVE, MALFORMED) for rule, fields in FIELDS.items()] + [
    Case(
        "8.1 HEADERS behind HEADERS without an end",
        headers(1) + headers(1, [(b"x", b"y")]) + ALIVE,
        MALFORMED,
    ),
    Case(
        "8.1 a pseudo-header in trailers",
        headers(1) + headers(1, [(b":method", b"POST")], end=True) + ALIVE,
        MALFORMED,
    ),
    Case(
        "8.1.1 a content-length that is not the data's",
        of_length(1) + frame(DATA, 1, 1, HELLO) + ALIVE,
        MALFORMED,
    ),
    Case(
        "8.1.1 a content-length that is not the data's of several frames",
        of_length(1) + frame(DATA, 0, 1, HELLO) + frame(DATA, 1, 1, HELLO) + ALIVE,
        MALFORMED,
    ),
    Case(
        "8.1.1 a content-length that fits",
        of_length(10) + frame(DATA, 1, 1, HELLO),
        ["HEADERS 1 200", "status 1 0"],
    ),
    Case(
        "8.1 trailers end a request",
        headers(1, fields_of("Echo"))
        + frame(DATA, 0, 1, HELLO)
        + headers(1, [(b"x", b"y")], end=True),
        ["HEADERS 1 200", "status 1 0"],
    ),
    Case(
        "8.5 CONNECT is answered as what gRPC has not",
        headers(1, [(b":method", b"CONNECT"), (b":authority", b"node:1")], end=True),
        ["HEADERS 1 405"],
    ),
    Case(
        "8 a GET is answered",
        headers(1, fields_of(changed={b":method": b"GET"}), end=True),
        ["HEADERS 1 405"],
    ),
    Case(
        "8 a HEAD is answered",
        headers(1, fields_of(changed={b":method": b"HEAD"}), end=True),
        ["HEADERS 1 405"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.rule)
async def test_rfc_9113(case: Case) -> None:
    await check(case)


@pytest.mark.parametrize("rule", FIELDS)
async def test_a_malformed_request_reaches_no_handler(rule: str) -> None:
    exchange = Exchange()
    await exchange.begin()
    await exchange.send(headers(1, FIELDS[rule], end=True))
    assert exchange.site.runtime.calls.count == 0
    assert exchange.site.service.peers == []
    await exchange.end()


async def test_8_1_an_answer_before_the_end_of_a_request_is_followed_by_a_reset_without_error() -> (
    None
):
    exchange = Exchange()
    await exchange.begin()
    await exchange.send(headers(1, fields_of("None")))
    assert exchange.outcome() == ["status 1 12", "RST_STREAM 1 NO_ERROR"]
    await exchange.end()
