"""Lists of SHA-256 digests that stay encoded: the bytes of each one are its name.

FindMissingBlobs names thousands of blobs, of which most were asked about a moment ago. Digests made
of them cost 8,000 instructions each, half of what the call cost; their names, cut by one regular
expression, 2,500. What is remembered under its name needs no more than that, and an answer repeats
the names of the blobs that are missing: the field has the same number and type there.

Only the plain form is read here. For everything else decode_listed returns None, or hashes_of
raises NotCanonical, and the runtime has to read the request: other digest functions, unknown
fields, upper-case digits, numbers that are not as short as they can be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

from federation.core.digest import EMPTY, HASH_BYTES
from federation.wire.digests import digest_field
from federation.wire.protobuf import read_varint
from federation.wire.resource_name import check_instance

_HEAD = 4  # tag and length of the digest's field, tag and length of its hash
_TAIL = _HEAD + 2 * HASH_BYTES  # where its size begins
_NAME = re.compile(
    rb"\x12[\x42-\x4c]\x0a\x40.{64}(?:\x10[\x80-\xff]*[\x01-\x7f])?",  # no size: it is 0
    re.DOTALL,
)
_SHA256 = b"\x18\x01"  # the field digest_function, said by some
_EMPTY = digest_field(2, EMPTY)
_LENGTH = itemgetter(1)
_hashes_in = Struct(f"{HASH_BYTES}s").iter_unpack


class NotCanonical(Exception):
    """A name that this module does not read, though it may be valid."""


class DigestList(NamedTuple):
    """FindMissingBlobsRequest with its digests as they were encoded, without duplicates.

    The empty blob, which every store holds, is left out.
    """

    instance: str
    names: Sequence[bytes]


def decode_listed(data: bytes) -> DigestList | None:
    """Cut a FindMissingBlobsRequest; None: read it as any message. Raises InvalidRequest."""
    start = 0
    instance = ""
    # The instance name, if there is one, with a length of one byte. A longer one is read elsewhere.
    if data[:1] == b"\x0a" and len(data) > 1 and data[1] < 0x80:
        start = 2 + data[1]
        try:
            instance = data[2:start].decode()
        except UnicodeDecodeError:
            return None
    # No name ends with these bytes: of a size in several bytes all but the last are 0x80 or more.
    end = len(data) - len(_SHA256) if data.endswith(_SHA256) else len(data)
    names = _NAME.findall(data, start, end)
    if sum(map(len, names)) != end - start:  # something else stands between them
        return None
    # Casd repeats digests within a call, and an answer names each once.
    distinct = dict.fromkeys(names)
    distinct.pop(_EMPTY, None)
    return DigestList(check_instance(instance), tuple(distinct))


def hashes_of(names: Sequence[bytes]) -> list[bytes]:
    """Return the raw hashes of the digests with these names. Raises NotCanonical."""
    text = b"".join([name[_HEAD:_TAIL] for name in names])
    try:
        raw = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise NotCanonical from None
    if raw.hex().encode() != text:  # fromhex lets white space and upper case pass
        raise NotCanonical
    if list(map(_LENGTH, names)) != [len(name) - 2 for name in names]:  # not what the runtime reads
        raise NotCanonical
    return [one for (one,) in _hashes_in(raw)]


def size_of(name: bytes) -> int:
    """Return the size of the digest with this name, in bytes."""
    return _number(name[_TAIL + 1 :])


@lru_cache(maxsize=4096)  # sizes repeat
def _number(data: bytes) -> int:
    return read_varint(data, 0, len(data))[0] if data else 0


def encode_listed(names: Sequence[bytes]) -> bytes:
    """FindMissingBlobsResponse."""
    return b"".join(names)
