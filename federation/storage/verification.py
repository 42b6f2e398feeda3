"""Decides when a blob must be verified, and compares bytes in memory with their digest.

Inline blobs are small and verified at every read. Files are verified if the last verification is
older than `verify-after`, or their ctime has changed. A small file, or one that is read in part, is
hashed before its first byte is sent; a large one is hashed while it streams, and its last chunk is
held back until the hash matches.
"""

from __future__ import annotations

from federation.core.digest import Digest, hash_bytes
from federation.storage.blob_files import Damage
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.context import StorageContext


def check_inline(digest: Digest, data: bytes) -> None:
    """Compare bytes in memory with their digest. Raises Damage."""
    if len(data) != digest.size_bytes or hash_bytes(digest.function, data) != digest.hash:
        raise Damage("does not match its digest")


def needs_verifying(core: StorageContext, row: BlobRow, ctime_ns: int) -> bool:
    """Return whether a file must be hashed before its bytes are trusted."""
    age_ms = core.now_ms() - row.verified_ms
    # ctime, which no program can set back, rather than mtime.
    return ctime_ns != row.ctime_ns or age_ms > core.settings.verify_after * 1000
