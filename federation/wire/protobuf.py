"""Protobuf's wire format, read and written without message objects.

Hot messages carry thousands of digests or megabytes of blob, which the generated classes would
copy and wrap one by one. Readers are as strict as the compiled runtime: what it refuses to parse
is refused here (truncation, over-long varints, groups left open, field number 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from federation.core.errors import InvalidRequest

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
MAX_NESTING = 100  # the compiled runtime's own bound on nested groups and messages
_FIELD_NUMBER_MAX = 2**29 - 1
_MASK64 = 2**64 - 1
_SHORT = 5  # most bytes of a tag or a length: their values have 32 bits

_M = TypeVar("_M", bound=Message)

_GROUP_FIELDS_MAX = 1000  # no message here has groups; an unknown one is skipped in Python

Buffer = bytes | bytearray | memoryview
Field = tuple[int, int, int, int]


def broken(what: str) -> InvalidRequest:
    """Return the error for bytes that are not a protobuf message."""
    return InvalidRequest(f"the request is not a valid protobuf: {what}")


def read_varint(data: Buffer, at: int, end: int, bytes_max: int = 10) -> tuple[int, int]:
    """Return the unsigned 64-bit value of the varint at `at`, and where it ends."""
    value = shift = 0
    # Bounded, as the runtime does it: more bytes would only make a larger integer.
    while at < end and shift < 7 * bytes_max:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # The tenth byte may have more bits than a 64-bit value; protobuf drops those.
            return value & _MASK64, at
        shift += 7
    raise broken("truncated or over-long varint")


def signed(value: int) -> int:
    """Read a 64-bit varint's value as an int64 (protobuf's two's complement)."""
    return value - 2**64 if value >= 2**63 else value


def int32(value: int) -> int:
    """Read a varint's value as an int32 or an enum: protobuf keeps the low 32 bits."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def fields(data: Buffer, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """Yield (number, wire type, a, b) of each field of the message in data[start:end].

    For VARINT a is the unsigned value; for LENGTH the content is data[a:b]; other kinds are
    checked and yielded with the place of their content.

    Raises InvalidRequest when the bytes are not a message.
    """
    at = start
    stop = len(data) if end is None else end
    while at < stop:
        tag = data[at]
        # The short ways here and below are nearly always taken, and save a call for each field.
        if tag < 0x80:
            at += 1
        else:
            tag, at = read_varint(data, at, stop, _SHORT)
        kind = tag & 7
        if kind == LENGTH:
            if at < stop and data[at] < 0x80:
                length = data[at]
                at += 1
            else:
                length, at = read_varint(data, at, stop, _SHORT)
            content, at = at, at + length
            if at > stop:
                raise broken("length beyond the end")
            a, b = content, at
        elif kind == VARINT:
            a, at = read_varint(data, at, stop)
            b = at
        else:
            a, at = at, _skip(data, at, stop, tag, MAX_NESTING)
            b = at
        number = tag >> 3
        if not 0 < number <= _FIELD_NUMBER_MAX:
            raise broken("field number out of range")
        yield number, kind, a, b


def _skip(data: Buffer, at: int, end: int, tag: int, depth: int) -> int:
    """Return where the content of a fixed-size field or group that starts at `at` ends."""
    kind = tag & 7
    if kind in {FIXED64, FIXED32}:
        at += 8 if kind == FIXED64 else 4
        if at > end:
            raise broken("truncated number")
        return at
    if kind != GROUP:
        raise broken("wire type that is not in use" if kind != END_GROUP else "stray end of group")
    return _skip_group(data, at, end, tag, depth)


def _skip_group(data: Buffer, at: int, end: int, tag: int, depth: int) -> int:
    """Return where the group opened by tag ends; iterative, since clients choose the depth."""
    opened = [tag >> 3]
    skipped = 0
    while opened:
        skipped += 1
        if skipped > _GROUP_FIELDS_MAX:
            raise broken(f"a group of more than {_GROUP_FIELDS_MAX} fields")
        # The runtime refuses deeper ones, and both have to agree on what a message is.
        if len(opened) > depth:
            raise broken("nested too deep")
        tag, at = read_varint(data, at, end, _SHORT)
        kind = tag & 7
        if tag >> 3 > _FIELD_NUMBER_MAX:
            raise broken("field number out of range")
        if kind == GROUP:
            opened.append(tag >> 3)
        elif kind == END_GROUP:
            if opened.pop() != tag >> 3:
                raise broken("group closed by another")
        elif kind == VARINT:
            _, at = read_varint(data, at, end)
        elif kind == LENGTH:
            length, at = read_varint(data, at, end, _SHORT)
            at += length
            if at > end:
                raise broken("length beyond the end")
        else:
            at = _skip(data, at, end, tag, depth)
    return at


def text(data: Buffer, start: int, end: int) -> str:
    """Read a string field's content; it has to be UTF-8."""
    try:
        return bytes(data[start:end]).decode()
    except UnicodeDecodeError:
        raise broken("a string that is not UTF-8") from None


def varint(value: int) -> bytes:
    """Write an unsigned value, or a negative int64 as ten bytes."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    # Two's complement in 64 bits, as protobuf has it also for an int32.
    value &= _MASK64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE_BYTE = [bytes([value]) for value in range(0x80)]


def length_field(number: int, content: bytes) -> bytes:
    """Write a string, bytes or message field."""
    if number < 16 and len(content) < 0x80:
        return _ONE_BYTE[number << 3 | LENGTH] + _ONE_BYTE[len(content)] + content
    return varint(number << 3 | LENGTH) + varint(len(content)) + content


def length_prefix(number: int, size_bytes: int) -> bytes:
    """Write what precedes the content of a string, bytes or message field of this size."""
    return varint(number << 3 | LENGTH) + varint(size_bytes)


def varint_field(number: int, value: int) -> bytes:
    """Write an integer or enum field; zero, the default, is left out as protobuf does."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def parse_message(kind: type[_M], data: Buffer, *, unknown_is_fine: bool = False) -> _M:
    """Parse a message whole.

    Raises InvalidRequest for bytes that are not a message of this type, and, unless
    unknown_is_fine, for one whose fields are all unknown: it is of another type.
    """
    try:
        message = kind.FromString(data)  # type: ignore[arg-type]
    except DecodeError:
        raise InvalidRequest(f"not a {kind.DESCRIPTOR.name}: it cannot be parsed") from None
    # The runtime keeps unknown fields aside, so any message parses as any other.
    if data and not unknown_is_fine and not message.ListFields():
        raise InvalidRequest(f"not a {kind.DESCRIPTOR.name}: all its fields are unknown")
    return message
