"""Counts the fields of messages before they are parsed.

A field of two bytes becomes an object of a hundred or more: 1 MiB of empty items took 11 s and
780 MiB. Legitimate messages are not that dense, since nearly every item contains a digest. So the
fields are counted in the encoded bytes, and the compiled runtime parses only messages whose memory
is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from federation.core.errors import RequestTooLarge
from federation.wire.protobuf import LENGTH, Buffer, Field, broken, fields, parse_message

DIGEST_BYTES = 66  # the least that an item with a digest in it takes
RESULT_FIELD_BYTES = 16  # the same of an action result, which may be all symlinks
FREE_FIELDS = 4096  # of any message, however small they are
STRUCTURE_FIELDS_MAX = 1_000_000  # with a digest each they are 75 MB
PIECE_FIELDS = 1000  # of a structure, parsed at once
_PIECE_BYTES = 256 * 1024
_NESTED_FREE_FIELDS = 64
_NESTED_FIELD_BYTES = 8
SMALL_STRUCTURE_BYTES = 4 * 1024  # not larger: no harm, however many fields are in it

_M = TypeVar("_M", bound=Message)


def _too_many(text: str) -> RequestTooLarge:
    return RequestTooLarge("message.fields", text)


def check_fields(data: Buffer, item_bytes: int = DIGEST_BYTES, most: int | None = None) -> None:
    """Check that a message has few enough fields for its size, and at most `most` of them.

    Costs nothing for small messages, 0.1 us a field for others, and stops at the first one too
    many. Raises InvalidRequest.
    """
    allowed = FREE_FIELDS + len(data) // item_bytes
    if most is not None:
        allowed = min(allowed, most)
    # A field takes two bytes at least, so most messages need no counting.
    if len(data) // 2 > allowed:
        _count(data, 0, len(data), allowed)


def _count(data: Buffer, at: int, end: int, allowed: int) -> None:
    """Raise RequestTooLarge unless data[at:end] has at most `allowed` fields.

    The loop reads by itself what nearly all fields are: a tag of one byte, a length of one or two.
    """
    count = 0
    while at < end:
        count += 1
        if count > allowed:
            raise _too_many(f"more than {allowed} fields in a message of {len(data)} bytes")
        if data[at] & 0x87 == LENGTH and at + 2 < end:
            length = data[at + 1]
            if length < 0x80:
                at += 2 + length
                continue
            if data[at + 2] < 0x80:
                at += 3 + (length & 0x7F | data[at + 2] << 7)
                continue
        # The rare rest: other kinds, long tags, lengths of three bytes and more.
        at = next(fields(data, at, end))[3]
    # The short way above does not look at the end, so a length may have led beyond it.
    if at > end:
        raise broken("length beyond the end")


def read_request(kind: type[_M], data: bytes, item_bytes: int = DIGEST_BYTES) -> _M:
    """Parse a request that has nothing repeated inside its items.

    Raises RequestTooLarge for one that is denser than any legitimate one, DecodeError.
    """
    check_fields(data, item_bytes)
    return kind.FromString(data)


def check_nested(descriptor: Any, data: Buffer, start: int, end: int) -> None:
    """Check that no message inside data[start:end], itself of this type, is too dense.

    Raises InvalidRequest.
    """
    size_bytes = end - start
    if size_bytes <= SMALL_STRUCTURE_BYTES:
        return
    allowed = _NESTED_FREE_FIELDS + size_bytes // _NESTED_FIELD_BYTES
    inner = _messages_in(descriptor)
    for count, (number, kind, a, b) in enumerate(fields(data, start, end)):
        if count >= allowed:
            raise _too_many(f"more than {allowed} fields in {size_bytes} bytes of a message")
        if kind == LENGTH and b - a > SMALL_STRUCTURE_BYTES and number in inner:
            check_nested(inner[number], data, a, b)


@lru_cache(maxsize=64)
def _messages_in(descriptor: Any) -> dict[int, Any]:
    """Return the types of the fields that are messages."""
    return {
        field.number: field.message_type
        for field in descriptor.fields
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None
    }


def pieces(kind: type[_M], data: Buffer) -> Iterator[_M]:
    """Parse a message of any number of fields in parts, each with a bounded number of them.

    All parts merged are the message. There is at least one part. Raises InvalidRequest when the
    bytes are no such message.
    """
    if len(data) <= SMALL_STRUCTURE_BYTES:
        # Fields that are all unknown are judged by the caller, who sees the whole.
        yield parse_message(kind, data, unknown_is_fine=True)
        return
    inner = _messages_in(kind.DESCRIPTOR)
    start = at = count = 0
    for total, (number, wire, a, b) in enumerate(fields(data)):
        if total == STRUCTURE_FIELDS_MAX:
            raise _too_many(f"more than {STRUCTURE_FIELDS_MAX} fields in one structure")
        if wire == LENGTH and b - a > SMALL_STRUCTURE_BYTES and number in inner:
            check_nested(inner[number], data, a, b)
        at, count = b, count + 1
        # Cut between fields: protobuf merges messages that are parsed one after the other.
        if count == PIECE_FIELDS or at - start > _PIECE_BYTES:
            yield parse_message(kind, data[start:at], unknown_is_fine=True)
            start, count = at, 0
    if start < len(data):
        yield parse_message(kind, data[start:], unknown_is_fine=True)


def few_fields(data: Buffer) -> Iterator[Field]:
    """Yield the fields of a message that consists mostly of one part of a blob."""
    for count, field in enumerate(fields(data)):
        if count == FREE_FIELDS:
            raise _too_many(f"more than {FREE_FIELDS} fields in a message of a stream")
        yield field
