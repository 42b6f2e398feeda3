"""Receives a blob whose size is not known until its last byte has come.

HTTP uploads in chunks do not say their size, and the values of keyed entries do not say their hash.
Bytes are collected in memory as long as they would fit the catalogue, and written to a file from
then on. The rest is as for any other blob.
"""

from __future__ import annotations

from collections.abc import Callable

from federation.core.digest import HASH_BYTES, Digest, DigestFunction, hash_bytes
from federation.core.errors import BlobTooLarge, DigestMismatch
from federation.core.provenance import Provenance
from federation.core.store import Piece
from federation.storage.context import StorageContext
from federation.storage.ingest import LocalIngest


class UnsizedIngest(LocalIngest):
    """See begin_unsized in federation.core.store.LocalStore."""

    def __init__(
        self,
        core: StorageContext,
        function: DigestFunction,
        raw_hash: bytes | None,
        path: str,
        provenance: Provenance,
    ) -> None:
        """raw_hash: what the bytes must hash to; None: anything."""
        self._expected_hash = raw_hash
        # Until it is verified, the size stands for the most that is taken.
        most = Digest(raw_hash or bytes(HASH_BYTES), core.space.max_blob_bytes, function)
        super().__init__(core, most, path, provenance)
        self._small = bytearray()

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        """See Ingest. Raises BlobTooLarge instead of DigestMismatch for too many bytes."""
        end = self._received_bytes + len(data)
        if end > self._digest.size_bytes:
            too_large = Digest(self._digest.hash, end, self._digest.function)
            raise BlobTooLarge(too_large, self._digest.size_bytes)
        if self._small is not None and end > self._core.settings.inline_max:
            self._reserve(len(data))
            data, self._small = bytes(self._small) + data, None
            # They count again as they are written: all bytes so far become the file's first piece.
            self._received_bytes = self._hashed_bytes = 0
            await self._append_file(data, on_hashed)
            return
        await super().append(data, on_hashed)

    def verify(self) -> None:
        """See Ingest; afterwards the digest is known."""
        if self._is_right is None:
            function = self._digest.function
            if self._small is not None:
                found = hash_bytes(function, bytes(self._small))
            else:
                found = self._hasher.digest()
            if self._expected_hash is not None and found != self._expected_hash:
                named = Digest(self._expected_hash, self._hashed_bytes, function)
                raise DigestMismatch(named, "other bytes were sent")
            self._digest = Digest(found, self._hashed_bytes, function)
            self._is_right = True
        super().verify()
