"""How much room there is: the quota, the disk, and what running uploads have reserved.

Sizes are reserved from the digest, before the first byte, so that uploads which cannot fit are
refused at once. The catalogue checks the quota again inside its write lock, which makes it hold
over all processes on the directory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from federation.digest import Digest
from federation.errors import BlobTooLarge, StorageFull


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system below the data directory, in bytes."""

    total_bytes: int
    free_bytes: int


def measure_disk(path: Path) -> Disk:
    """Ask the kernel. Raises OSError."""
    facts = os.statvfs(path)
    return Disk(facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize)


def effective_quota(
    quota_bytes: int | None, reserve_bytes: int, disk: Disk, stored_bytes: int
) -> int:
    """Return the most bytes that may be held: the quota, or less where the disk has less.

    The reserve is what other users of the disk keep; on a small disk at most 5 % of it.
    """
    reserve = min(reserve_bytes, disk.total_bytes // 20)
    fits = max(0, stored_bytes + disk.free_bytes - reserve)
    return fits if quota_bytes is None else min(quota_bytes, fits)


class Space:
    """Reservations of this process against the quota."""

    def __init__(self, max_blob_bytes: int) -> None:
        self._max_blob_bytes = max_blob_bytes
        self.reserved_bytes = 0
        self.stored_bytes = 0
        self.quota_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<Space {self.stored_bytes} stored, {self.reserved_bytes} reserved "
            f"of {self.quota_bytes}>"
        )

    def update(self, *, stored_bytes: int, quota_bytes: int) -> None:
        """Take new measurements."""
        self.stored_bytes = stored_bytes
        self.quota_bytes = quota_bytes

    def check_blob(self, digest: Digest) -> None:
        """Refuse what no amount of eviction makes fit.

        Raises BlobTooLarge, StorageFull.
        """
        if digest.size_bytes > self._max_blob_bytes:
            raise BlobTooLarge(digest, self._max_blob_bytes)
        if digest.size_bytes > self.quota_bytes:
            raise StorageFull(
                f"blob {digest} is larger than everything this node may keep "
                f"({self.quota_bytes} bytes); nothing was stored"
            )

    def reserve(self, size_bytes: int) -> None:
        """Set room aside; release() gives it back. Raises StorageFull."""
        if self.stored_bytes + self.reserved_bytes + size_bytes > self.quota_bytes:
            raise StorageFull(
                f"no room for {size_bytes} bytes: {self.stored_bytes} stored and "
                f"{self.reserved_bytes} being received of {self.quota_bytes}; try again later"
            )
        self.reserved_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Give room back, because the blob is stored (and counted there) or dropped."""
        self.reserved_bytes -= size_bytes
