"""Digests: the value that names a blob, and the hash functions behind it.

Hot calls make thousands of these, so a Digest is a tuple of raw bytes; the text form is made only
where a person or a resource name needs it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import blake3

HASH_BYTES = 32
MAX_SIZE_BYTES = 2**63 - 1


class DigestFunction(enum.IntEnum):
    """Hash functions that this node stores under (values of REAPI v2 DigestFunction.Value)."""

    SHA256 = 1
    BLAKE3 = 9

    @property
    def wire_name(self) -> str:
        """The lower-case name used in resource names, e.g. "blake3"."""
        return self.name.lower()


class Hasher(Protocol):
    """The part of hashlib's interface that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the raw hash of the bytes taken so far."""
        ...


class Implementation(NamedTuple):
    """What this node needs to store blobs under one digest function."""

    new: Callable[[], Hasher]
    hash_bytes: Callable[[bytes | memoryview], bytes]  # the raw hash of data that is all here
    suffix: str  # of a blob file's name, which without one means SHA-256


# The one place to add a digest function to, together with its value above. Every hash has
# HASH_BYTES bytes: catalogue keys and the raw codecs rely on that.
IMPLEMENTATIONS: Mapping[DigestFunction, Implementation] = {
    DigestFunction.SHA256: Implementation(
        hashlib.sha256, lambda data: hashlib.sha256(data).digest(), ""
    ),
    DigestFunction.BLAKE3: Implementation(
        blake3.blake3, lambda data: blake3.blake3(data).digest(), ".blake3"
    ),
}


def new_hasher(function: DigestFunction) -> Hasher:
    """Return a fresh hasher of this function."""
    return IMPLEMENTATIONS[function].new()


def hash_bytes(function: DigestFunction, data: bytes | memoryview) -> bytes:
    """Return the raw hash of data, HASH_BYTES long."""
    return IMPLEMENTATIONS[function].hash_bytes(data)


class Digest(NamedTuple):
    """A blob's name: raw hash (32 bytes), size in bytes, and the function that made the hash."""

    hash: bytes
    size_bytes: int
    function: DigestFunction = DigestFunction.SHA256

    @property
    def hash_hex(self) -> str:
        """The hash as 64 lower-case hex digits."""
        return self.hash.hex()

    @property
    def is_empty(self) -> bool:
        """Whether this names the empty blob, which every store holds without being given it."""
        return self.size_bytes == 0 and self.hash == _EMPTY_HASH[self.function]

    def __str__(self) -> str:
        text = f"{self.hash.hex()}/{self.size_bytes}"
        # As REAPI writes resource names: the function is named where it is not implied.
        if self.function == DigestFunction.SHA256:
            return text
        return f"{self.function.wire_name}/{text}"


_EMPTY_HASH = {function: hash_bytes(function, b"") for function in DigestFunction}
EMPTY = Digest(_EMPTY_HASH[DigestFunction.SHA256], 0)


def digest_of(data: bytes, function: DigestFunction = DigestFunction.SHA256) -> Digest:
    """Return the digest that names data."""
    return Digest(hash_bytes(function, data), len(data), function)
