"""How much room there is: the quota, the disk, and what running uploads have reserved.

Room is reserved for bytes that have come, not for what an upload says will come: a client that
names a size and sends nothing takes no room from others. What no amount of eviction makes fit is
refused from its name alone. The catalogue checks the quota again inside its write lock, which makes
it hold over all processes on the directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from federation.config.model import StorageConfig
from federation.core.digest import Digest
from federation.core.errors import BlobTooLarge, StorageFull
from federation.storage.blob_files import CREATE
from federation.storage.catalogue.footprint import bounded_overhead
from federation.storage.directory import DataDirectory

DEFAULT_RESERVE_BYTES = 2 * 2**30
_RESERVE_MAX_BYTES = 16 * 2**20
_RESERVE_PART = 64  # of the disk, or of the quota
_NEAR_BYTES = 64 * 2**20  # measurements are a second old: closer to the end they do not do
CATALOGUE_BYTES = 4 * 2**20  # what its write-ahead log may grow by before it is looked at again
_EARLY = 4  # eviction takes seconds: it starts with this part of the way to reserve-max left


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system below the data directory, in bytes."""

    total_bytes: int
    free_bytes: int


def measure_disk(path: Path) -> Disk:
    """Ask the kernel. Raises OSError."""
    facts = os.statvfs(path)
    return Disk(facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize)


class Marks(NamedTuple):
    """How much may be held, and between which amounts eviction works; in bytes."""

    quota_bytes: int
    starts_at_bytes: int  # with more than this
    target_bytes: int


class _Bound(NamedTuple):
    starts_at_bytes: int
    target_bytes: int


def marks(settings: StorageConfig, disk: Disk, stored_bytes: int, overhead_bytes: int = 0) -> Marks:
    """Return them for this much stored on a disk that looks like this.

    overhead_bytes: what the data directory takes beside that. A quota is for both; of the disk's
    free room it is gone already.

    The reserve is free disk that others keep: exactly what the operator says, else the default or
    5 % of a small disk. With a reserve-max, eviction for the disk's sake starts shortly before the
    reserve is touched and goes on until so much is free, instead of at the watermarks.
    """
    reserve = settings.reserve
    if reserve is None:
        reserve = min(DEFAULT_RESERVE_BYTES, disk.total_bytes // 20)
    elif reserve:
        reserve += CATALOGUE_BYTES
    room = stored_bytes + disk.free_bytes
    fits = max(0, room - reserve)
    bounds = [_by_shares(settings, fits)]
    if settings.reserve_max is not None:
        # More than half of the disk is a number that was meant for another one.
        most = max(reserve, min(settings.reserve_max, disk.total_bytes // 2))
        bounds = [_Bound(max(0, fits - (most - reserve) // _EARLY), max(0, room - most))]
    quota = fits
    if settings.quota is not None:
        keeps = settings.quota - bounded_overhead(settings.quota, overhead_bytes)
        bounds.append(_by_shares(settings, keeps))
        quota = min(keeps, fits)
    starts_at = min(bound.starts_at_bytes for bound in bounds)
    met = [bound for bound in bounds if bound.starts_at_bytes < max(stored_bytes, starts_at + 1)]
    return Marks(quota, starts_at, min(bound.target_bytes for bound in met))


def in_all(settings: StorageConfig, found: Marks, overhead_bytes: int) -> int:
    """Return the quota as the operator means it, of all that the data directory takes, in bytes."""
    whole = found.quota_bytes + overhead_bytes
    return whole if settings.quota is None else min(settings.quota, whole)


def _by_shares(settings: StorageConfig, most_bytes: int) -> _Bound:
    high, low = settings.high_watermark, settings.low_watermark
    return _Bound(int(most_bytes * high), int(most_bytes * low))


class Space:
    """Reservations of this process against the quota."""

    def __init__(self, max_blob_bytes: int, free_bytes: Callable[[], int] | None = None) -> None:
        """Start without any room.

        Args:
            max_blob_bytes: the largest blob taken.
            free_bytes: asks the disk, without waiting for it. Raises OSError.
        """
        self._max_blob_bytes = max_blob_bytes
        self._free_bytes = free_bytes
        self._keep_free_bytes: int | None = None
        self.reserved_bytes = 0
        self.stored_bytes = 0
        self.marks = Marks(0, 0, 0)

    def __repr__(self) -> str:
        return (
            f"<Space {self.stored_bytes} stored, {self.reserved_bytes} reserved "
            f"of {self.quota_bytes}>"
        )

    @property
    def quota_bytes(self) -> int:
        """The most that may be held."""
        return self.marks.quota_bytes

    def update(
        self, *, stored_bytes: int, marks: Marks, keep_free_bytes: int | None = None
    ) -> None:
        """Take new measurements; keep_free_bytes: a reserve that is never to be touched."""
        self.stored_bytes = stored_bytes
        self.marks = marks
        self._keep_free_bytes = keep_free_bytes

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
        self._check_disk(size_bytes)
        self.reserved_bytes += size_bytes

    def _check_disk(self, size_bytes: int) -> None:
        """Near the end, look at the disk itself: others write too, and so does the catalogue."""
        keep = self._keep_free_bytes
        left = self.quota_bytes - self.stored_bytes - self.reserved_bytes - size_bytes
        if keep is None or self._free_bytes is None or left > _NEAR_BYTES:
            return
        try:
            free = self._free_bytes()
        except OSError:  # what cannot be asked now is measured, and complained of, every second
            return
        if free - self.reserved_bytes - size_bytes - CATALOGUE_BYTES < keep:
            raise StorageFull(
                f"no room for {size_bytes} bytes: {free} are free on the disk, of which {keep} "
                "are reserved; try again later"
            )

    def release(self, size_bytes: int) -> None:
        """Give room back, because the blob is stored (and counted there) or dropped."""
        self.reserved_bytes -= size_bytes


class Reserve:
    """A file that takes some of the disk, for the commits of eviction when the disk is full."""

    def __init__(self, directory: DataDirectory, settings: StorageConfig) -> None:
        self._directory = directory
        self._settings = settings

    def make(self) -> None:
        """Write the file where there is none and the disk has plenty of room. Raises OSError."""
        disk = measure_disk(self._directory.root)
        room_bytes = min(self._settings.quota or disk.total_bytes, disk.total_bytes)
        size_bytes = min(_RESERVE_MAX_BYTES, room_bytes // _RESERVE_PART)
        if self._directory.reserve.exists() or disk.free_bytes < 8 * size_bytes:
            return
        with open(os.open(self._directory.reserve, CREATE, 0o600), "wb") as file:
            file.write(bytes(size_bytes))

    @contextmanager
    def as_last_resort(self) -> Iterator[None]:
        """Free the file's room when the disk proves full; what failed is tried again later."""
        try:
            yield
        except StorageFull:
            self._directory.reserve.unlink(missing_ok=True)
            raise
