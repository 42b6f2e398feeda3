"""Whether a held blob has the checksum that a client demands of it (checksum.sri)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from federation.core.digest import Digest, DigestFunction
from federation.core.errors import BlobDamaged, BlobNotFound
from federation.core.store import Store
from federation.wire.sri import Integrity

VERIFY_MAX_BYTES = 2**30  # a larger blob is read for its digest's own function only: seconds of CPU
_CHUNK_BYTES = 256 * 1024  # hashed on the event loop, half a millisecond each
_REMEMBERED = 1024


class ChecksumVerifier:
    """Compares; if the digest is of another function, it reads and hashes the blob."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[tuple[Digest, str], bytes] = OrderedDict()

    def contradicts(self, digest: Digest, integrity: Integrity) -> bool:
        """Return whether the digest alone proves that its blob is another."""
        return _same_function(digest, integrity) and digest.hash not in integrity.hashes

    async def matches(self, digest: Digest, integrity: Integrity) -> bool:
        """Return whether the blob is here (or need not be) and has one of the hashes.

        False too for a blob that would have to be read and is above VERIFY_MAX_BYTES.
        """
        if _same_function(digest, integrity):
            return digest.hash in integrity.hashes
        return await self._hash(digest, integrity.algorithm) in integrity.hashes

    async def _hash(self, digest: Digest, algorithm: str) -> bytes | None:
        key = (digest, algorithm)
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        # After the look above: one that was hashed before costs nothing.
        if digest.size_bytes > VERIFY_MAX_BYTES:
            return None
        hasher = hashlib.new(algorithm)
        try:
            async with self._store.open_read(digest, next_bytes=lambda: _CHUNK_BYTES) as chunks:
                async for chunk in chunks:
                    hasher.update(chunk)
        # Not remembered: it may come back.
        except (BlobNotFound, BlobDamaged):
            return None
        self._known[key] = hasher.digest()
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]


def _same_function(digest: Digest, integrity: Integrity) -> bool:
    return digest.function is DigestFunction.SHA256 and integrity.algorithm == "sha256"
