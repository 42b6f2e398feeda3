"""Requests that are little else than thousands of digests, read without an object for each.

What clients send is regular: each digest is field 2, with a hash of 64 characters and behind it a
size. Such a request is cut where a hash begins: no other place of it can have those two bytes. One
that is written in any other way, though valid, is left to the protobuf runtime. A thousand digests
take half the time that the runtime's objects need.
"""

from __future__ import annotations

from typing import NamedTuple

from federation.digest import HASH_BYTES

_HASH_BEGINS = b"\x0a\x40"  # field 1 of a Digest, 64 bytes long
_HEX = 2 * HASH_BYTES
_FIELD = 0x12  # field 2 of the request: a message
_SIZE = 0x10  # field 2 of a Digest: a varint
_BARE_BYTES = 2 + _HEX  # a Digest without a size
_SIZE_BYTES_MAX = 8
_NONE = -1
_ONE_BYTE_MAX = 0x7F  # of a length


class DigestList(NamedTuple):
    """The digests of a request, in its order, and what else was in it."""

    hashes: list[bytes]
    sizes: list[int]
    rest: bytes  # the request without them


class _Behind(NamedTuple):
    """What stands between two hashes: the size, and the beginning of the next digest."""

    size: int
    length: int  # what the message of the digest before has to be long
    next_length: int  # what that of the next says; _NONE: there is none
    rest: bytes


def read_digests(data: bytes) -> DigestList | None:
    """Return the digests of a regular request; None for one that is not, or may not be valid."""
    start = 0
    if data[:1] == b"\x0a" and len(data) > 1 and data[1] <= _ONE_BYTE_MAX:
        start = 2 + data[1]  # behind the instance name
    if data[start : start + 1] != b"\x12":
        return None
    first, *parts = data[start:].split(_HASH_BEGINS)
    if len(first) != 2 or not parts:
        return None
    ends = [part[_HEX:] for part in parts]
    size, length, next_length = {}, {}, {}  # by what stands behind a hash: few different ones
    rest = b""
    for end in set(ends):
        behind = _read_end(end)
        if behind is None:
            return None
        size[end], length[end], next_length[end], rest_here = behind
        rest = rest or rest_here
    # Each length is that of the digest behind it, and nothing but the last is without a next.
    given = [first[1], *[next_length[end] for end in ends]]
    if given.pop() != _NONE or given != [length[end] for end in ends]:
        return None
    hashes = _hashes(b"".join([part[:_HEX] for part in parts]), len(parts))
    if hashes is None:
        return None
    return DigestList(hashes, [size[end] for end in ends], data[:start] + rest)


def _read_end(end: bytes) -> _Behind | None:
    """Read what follows a hash; None for what is not regular."""
    size, length, at = 0, _BARE_BYTES, 0
    if end[:1] == bytes((_SIZE,)):
        at = 1
        while at < len(end) and end[at] > _ONE_BYTE_MAX and at < _SIZE_BYTES_MAX:
            at += 1
        if at == len(end) or end[at] > _ONE_BYTE_MAX:
            return None
        at += 1
        for place, byte in enumerate(end[1:at]):
            size |= (byte & _ONE_BYTE_MAX) << (7 * place)
        length += at
    if len(end) == at + 2 and end[at] == _FIELD:
        return _Behind(size, length, end[at + 1], b"")
    return _Behind(size, length, _NONE, end[at:])


def _hashes(text: bytes, count: int) -> list[bytes] | None:
    """Return the hashes that these hex digits spell; None for what is no lower-case hex."""
    try:
        raw = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None
    # fromhex lets white space and upper case pass.
    if len(raw) != HASH_BYTES * count or text.lower() != text:
        return None
    return [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]
