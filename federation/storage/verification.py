"""When bytes are trusted without being hashed, and comparing them with their digest otherwise.

Inline blobs are verified at every read (they are small), files when they were not verified for
`verify-after` or their ctime moved. A file is then hashed before the first byte where it is small
or read in part, and while it streams otherwise, the last chunk held back until the hash matched.
"""

from __future__ import annotations

from federation.core.digest import Digest, hash_bytes
from federation.storage.blob_files import Damage
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.context import StorageContext


def check_inline(digest: Digest, data: bytes) -> None:
    """Compare bytes in memory with their digest. Raises Damage."""
    if len(data) != digest.size_bytes or hash_bytes(digest.function, data) != digest.hash:
        raise Damage("has other bytes than its digest names")


def needs_verifying(core: StorageContext, row: BlobRow, ctime_ns: int) -> bool:
    """Whether a file must be hashed before its bytes are trusted."""
    age_ms = core.now_ms() - row.verified_ms
    return ctime_ns != row.ctime_ns or age_ms > core.settings.verify_after * 1000
