"""The messages of federation.v1.Holdings: short names of many blobs, and a bitmap in answer.

A name is the digest function and the first 16 bytes of the hash (protos/federation/v1). Digests
whose hashes agree in 128 bits have the same name, so one blob may answer for another: whoever asks
may take a blob for held that is not, never one for lacking that is held. To make two such blobs on
purpose takes 2^64 hashes; to make one for a given digest, 2^128.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from federation._proto.federation.v1 import holdings_pb2 as holdings
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest, RequestTooLarge

HASH_PART_BYTES = 16
NAME_BYTES = 1 + HASH_PART_BYTES
NAMES_MAX = 4096  # in one call: 70 kB

_FUNCTION = {function: bytes((function,)) for function in DigestFunction}
_names_in = Struct(f"{NAME_BYTES}s").iter_unpack


def name_of(digest: Digest) -> bytes:
    """Return the name of one blob."""
    return _FUNCTION[digest.function] + digest.hash[:HASH_PART_BYTES]


def encode_question(instance: str, digests: Sequence[Digest]) -> bytes:
    """Return a serialized FindLackingRequest about at most NAMES_MAX blobs."""
    function = _FUNCTION
    names = b"".join([function[f] + raw[:HASH_PART_BYTES] for raw, _, f in digests])
    return holdings.FindLackingRequest(instance_name=instance, names=names).SerializeToString()


def split_names(names: bytes) -> list[bytes]:
    """Return the names that a request has, in its order.

    Raises RequestTooLarge for more than NAMES_MAX, before anything is made of them, and
    InvalidRequest for a part of a name.
    """
    if len(names) > NAMES_MAX * NAME_BYTES:
        raise RequestTooLarge(
            "message.fields", f"{len(names) // NAME_BYTES} names; at most {NAMES_MAX} in one call"
        )
    if len(names) % NAME_BYTES:
        raise InvalidRequest(f"names has {len(names)} bytes, no multiple of {NAME_BYTES}")
    return [name for (name,) in _names_in(names)]


def encode_answer(lacking: Sequence[bool]) -> bytes:
    """Return a serialized FindLackingResponse."""
    # Through one large integer: setting bit by bit would be a loop of Python.
    digits = "".join(["1" if each else "0" for each in reversed(lacking)])
    bitmap = int(digits or "0", 2).to_bytes((len(lacking) + 7) // 8, "little")
    return holdings.FindLackingResponse(lacking=bitmap).SerializeToString()


def lacking_in(answer: bytes, count: int) -> list[int]:
    """Return the places, in ascending order, of those of `count` names that are lacking.

    Raises InvalidRequest for a bitmap of another length, DecodeError.
    """
    bitmap = holdings.FindLackingResponse.FromString(answer).lacking
    bits = int.from_bytes(bitmap, "little")
    # An answer to another question, or bits for names that were not asked about.
    if len(bitmap) != (count + 7) // 8 or bits.bit_length() > count:
        raise InvalidRequest(f"a bitmap of {len(bitmap)} bytes for {count} names")
    digits = f"{bits:b}"[::-1]
    return [place for place, digit in enumerate(digits) if digit == "1"]
