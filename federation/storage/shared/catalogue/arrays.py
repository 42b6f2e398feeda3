"""Arrays as PostgreSQL takes them in its binary format.

psycopg's own dumper looks at each element. Ours join what has one length: for a thousand keys that
takes a tenth of the time, and it is most of what a node does for a FindMissing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

_BYTEA, _BIGINT = 17, 20  # oids in pg_type
_OID_OF_ARRAY = {_BYTEA: 1001, _BIGINT: 1016}
_NULL = b"\xff\xff\xff\xff"  # the length of a null


class BytesArray(bytes):
    """A bytea[], ready to be sent."""


class NumberArray(bytes):
    """A bigint[], ready to be sent."""


def keys(values: Sequence[bytes]) -> BytesArray:
    """Return values of one length as an array. Raises ValueError if their lengths differ."""
    if not values:
        return BytesArray(_head(_BYTEA, 0))
    size = len(values[0])
    prefix = struct.pack("!i", size)
    body = prefix + prefix.join(values)
    if len(body) != (size + 4) * len(values):
        raise ValueError("keys of several lengths")
    return BytesArray(_head(_BYTEA, len(values)) + body)


def blobs(values: Iterable[bytes | None]) -> BytesArray:
    """Return values of any lengths as an array."""
    pack = struct.Struct("!i").pack
    parts = [(_NULL, b"") if each is None else (pack(len(each)), each) for each in values]
    nulls = any(length is _NULL for length, _ in parts)
    return BytesArray(_head(_BYTEA, len(parts), nulls=nulls) + b"".join(chain.from_iterable(parts)))


def numbers(values: Sequence[int]) -> NumberArray:
    """Return 64-bit numbers as an array."""
    body = struct.pack("!" + "iq" * len(values), *chain.from_iterable((8, each) for each in values))
    return NumberArray(_head(_BIGINT, len(values)) + body)


def _head(oid: int, count: int, *, nulls: bool = False) -> bytes:
    """Dimensions, whether there are nulls, type; then for the dimension its length and bound."""
    if not count:
        return struct.pack("!iii", 0, 0, oid)
    return struct.pack("!iiiii", 1, int(nulls), oid, count, 1)


class _BytesArrayDumper(Dumper):
    format = Format.BINARY
    oid = _OID_OF_ARRAY[_BYTEA]

    def dump(self, obj: bytes) -> bytes:
        return obj


class _NumberArrayDumper(_BytesArrayDumper):
    oid = _OID_OF_ARRAY[_BIGINT]


def register(adapters: AdaptersMap) -> None:
    """Have psycopg send these arrays as they are."""
    adapters.register_dumper(BytesArray, _BytesArrayDumper)
    adapters.register_dumper(NumberArray, _NumberArrayDumper)
