"""The hashes of a blob's parts that its row keeps: made when it comes, compared when it is read.

They are made in the pass over the very bytes that are compared with the blob's digest before the
row is inserted. So bytes whose parts have these hashes, in this order, are the bytes that were
compared, and nobody has to hash the whole again. A byte behind the hashes says that they were made
so. Rows of earlier versions have none: their hashes are of what a node read back from its spool, so
what is read by them has to be compared with the digest, too. Pure.
"""

from __future__ import annotations

from collections import deque

import blake3

from federation.core.digest import Digest, DigestFunction, new_hasher
from federation.storage.shared.naming import PART_BYTES, part_count

_HASH_BYTES = 32
_PROVES_WHOLE = b"\x01"


def hash_part(data: bytes | memoryview) -> bytes:
    """Return the hash that the catalogue keeps of a part."""
    return blake3.blake3(data).digest()


def part_hash(hashes: bytes, part: int) -> bytes:
    """Return a part's hash from what the row keeps."""
    return hashes[part * _HASH_BYTES : (part + 1) * _HASH_BYTES]


def prove_whole(hashes: bytes, size_bytes: int) -> bool:
    """Return whether parts with these hashes are the blob: see the module's docstring."""
    return hashes[part_count(size_bytes) * _HASH_BYTES :] == _PROVES_WHOLE


class PartHasher:
    """A Hasher of a blob that also hashes its parts, whatever the pieces are that it comes in."""

    def __init__(self, function: DigestFunction) -> None:
        self._whole = new_hasher(function)
        self._part = blake3.blake3()
        self._left_bytes = PART_BYTES  # of the part under way
        self._hashes: list[bytes] = []

    def __repr__(self) -> str:
        return f"<PartHasher {len(self._hashes)} parts>"

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """See Hasher."""
        self._whole.update(data)
        rest = memoryview(data)
        while rest:
            of_part, rest = rest[: self._left_bytes], rest[self._left_bytes :]
            self._part.update(of_part)
            self._left_bytes -= len(of_part)
            if not self._left_bytes:
                self._hashes.append(self._part.digest())
                self._part, self._left_bytes = blake3.blake3(), PART_BYTES

    def digest(self) -> bytes:
        """See Hasher."""
        return self._whole.digest()

    def hashes(self) -> bytes:
        """Return what the row keeps, once digest() was compared with the blob's."""
        last = [self._part.digest()] if self._left_bytes < PART_BYTES else []
        return b"".join([*self._hashes, *last, _PROVES_WHOLE])


class PartProof:
    """A Hasher that knows a blob's hash by its parts, for a row whose hashes prove the whole.

    It hashes nothing: it takes the parts that were verified, which are the same objects and come in
    their order. Anything else has no hash.
    """

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._verified: deque[memoryview] = deque()  # that update() was not given yet
        self._proven_bytes = 0
        self._is_whole = True  # so far

    def __repr__(self) -> str:
        return f"<PartProof {self._digest} {self._proven_bytes}>"

    def verified(self, part: memoryview) -> None:
        """Take note of the blob's next part, which has the hash that the row keeps of it."""
        self._verified.append(part)

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """See Hasher."""
        is_next = bool(self._verified) and self._verified.popleft() is data
        self._is_whole = self._is_whole and is_next
        self._proven_bytes += len(data)

    def digest(self) -> bytes:
        """See Hasher."""
        is_proven = self._is_whole and self._proven_bytes == self._digest.size_bytes
        return self._digest.hash if is_proven else b""
