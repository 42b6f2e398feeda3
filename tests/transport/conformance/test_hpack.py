"""RFC 7541: how headers are packed."""

from __future__ import annotations

import pytest

from tests.transport.conformance.exchange import (
    END_HEADERS,
    Case,
    Code,
    block,
    check,
    dead,
    fields_of,
)
from tests.transport.wire import DATA, HEADERS_FRAME, frame

ANSWERED = ["HEADERS 1 200", "status 1 0"]
WHOLE = block(fields_of("Echo"))
HUFFMAN_X = b"\x81\xf3"  # "x"


def packed(data: bytes) -> bytes:
    """Return a call whose block of headers ends with this, or begins with it."""
    return frame(HEADERS_FRAME, END_HEADERS, 1, data) + frame(DATA, 1, 1, bytes(5))


def ends(rule: str, data: bytes) -> Case:
    return Case(rule, packed(WHOLE + data), ANSWERED)


def wrong(rule: str, data: bytes) -> Case:
    return Case(rule, packed(data), dead(Code.COMPRESSION_ERROR))


CASES = [
    ends("6.1 an indexed field", b"\x90"),  # accept-encoding: gzip, deflate
    ends("6.2.1 indexed, a name of the table", b"\x58\x01x"),
    ends("6.2.1 indexed, a name of the table, Huffman", b"\x58" + HUFFMAN_X),
    ends("6.2.1 indexed, a new name, and from the table then", b"\x40\x01x\x01y\xbe"),
    ends("6.2.1 indexed, a new name, Huffman", b"\x40" + HUFFMAN_X * 2),
    ends("6.2.2 not indexed, a name of the table", b"\x0f\x09\x01x"),
    ends("6.2.2 not indexed, a name of the table, Huffman", b"\x0f\x09" + HUFFMAN_X),
    ends("6.2.2 not indexed, a new name", b"\x00\x01x\x01y"),
    ends("6.2.3 never indexed, a name of the table", b"\x1f\x09\x01x"),
    ends("6.2.3 never indexed, a new name, Huffman", b"\x10" + HUFFMAN_X * 2),
    Case("6.3 a smaller table", packed(b"\x3f\x61" + WHOLE), ANSWERED),
    Case(
        "6.3 a smaller table, and a larger one then", packed(b"\x20\x3f\xe1\x1f" + WHOLE), ANSWERED
    ),
    wrong("6.3 a larger table than allowed", b"\x3f\xe2\x1f" + WHOLE),
    wrong("4.2 a change of the table behind a field", WHOLE + b"\x20"),
    wrong("2.3.3 an index that is in no table", b"\xc6" + WHOLE),
    wrong("2.3.3 a name that is in no table", b"\x7f\x07\x01x" + WHOLE),
    wrong("6.1 index 0", b"\x80" + WHOLE),
    wrong("5.1 a number without an end", b"\xff" + b"\xff" * 10 + WHOLE),
    wrong("5.2 a string beyond its block", WHOLE + b"\x00\x01x\x7f"),
    wrong("5.2 Huffman padding of more than 7 bits", WHOLE + b"\x00\x01x\x82\xf3\xff"),
    wrong("5.2 Huffman padding of zeros", WHOLE + b"\x00\x01x\x81\xf0"),
    wrong("5.2 Huffman's end of string", WHOLE + b"\x00\x01x\x84\xff\xff\xff\xff"),
    Case(
        "4.4 a field larger than the table empties it",
        packed(WHOLE + b"\x40\x01x\x7f\xa1\x1f" + b"y" * 4128),
        ANSWERED,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda each: each.rule)
async def test_rfc_7541(case: Case) -> None:
    await check(case)
