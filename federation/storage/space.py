"""How much room there is: the quota, the disk, and what running uploads have reserved.

Room is reserved for bytes that have arrived, not for the size that an upload announces: a client
that announces a size and sends nothing takes no room from others. A blob that no eviction could
make room for is refused at once by its size. The catalogue checks the quota again under its write
lock, so that it holds for all processes on the directory together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
_RESERVE_PART = 64  # 1/64 of the disk or the quota
_NEAR_BYTES = 64 * 2**20  # with less room left, measurements (a second old) are not good enough
CATALOGUE_BYTES = 4 * 2**20  # by how much the write-ahead log may grow until the next measurement
_EARLY = 4  # eviction takes seconds: it starts with 1/4 of reserve..reserve-max still free


class Disk(NamedTuple):
    """The size and free room of the data directory's file system."""

    total_bytes: int
    free_bytes: int


def measure_disk(path: Path) -> Disk:
    """Return the size and free room of the file system of a path. Raises OSError."""
    facts = os.statvfs(path)
    return Disk(facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize)


class Marks(NamedTuple):
    """How much may be held, and when eviction starts and stops."""

    quota_bytes: int
    starts_at_bytes: int  # eviction starts when more is held
    target_bytes: int  # and stops when no more than this is held


class _Bound(NamedTuple):
    starts_at_bytes: int
    target_bytes: int


def marks(settings: StorageConfig, disk: Disk, stored_bytes: int, overhead_bytes: int = 0) -> Marks:
    """Return the marks for the settings and the present state of the disk.

    Args:
        settings: quota, watermarks and reserve.
        disk: as measured now.
        stored_bytes: what objects take.
        overhead_bytes: what the data directory takes beside them. It counts against a configured
            quota; the disk's free bytes do not contain it anyway.

    The reserve is room on the disk that is left to others: as configured, by default 2 GiB, or 5 %
    of a small disk. With reserve-max, eviction starts shortly before free room falls to the
    reserve, and continues until reserve-max is free; the watermarks do not apply to it.
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
        # A value above half of the disk was probably meant for a larger disk.
        most = max(reserve, min(settings.reserve_max, disk.total_bytes // 2))
        bounds = [_Bound(max(0, fits - (most - reserve) // _EARLY), max(0, room - most))]
    quota = fits
    if settings.quota is not None:
        keeps = settings.quota - bounded_overhead(settings.quota, overhead_bytes)
        bounds.append(_by_shares(settings, keeps))
        quota = min(keeps, fits)
    starts_at = min(bound.starts_at_bytes for bound in bounds)
    # A bound that is not exceeded yet does not lower the target of another.
    met = [bound for bound in bounds if bound.starts_at_bytes < max(stored_bytes, starts_at + 1)]
    return Marks(quota, starts_at, min(bound.target_bytes for bound in met))


def in_all(settings: StorageConfig, found: Marks, overhead_bytes: int) -> int:
    """Return the quota for everything the data directory takes, as an operator sets it; bytes."""
    whole = found.quota_bytes + overhead_bytes
    return whole if settings.quota is None else min(settings.quota, whole)


def _by_shares(settings: StorageConfig, most_bytes: int) -> _Bound:
    high, low = settings.high_watermark, settings.low_watermark
    return _Bound(int(most_bytes * high), int(most_bytes * low))


class Space:
    """The room left in the quota, and the reservations of this process."""

    def __init__(self, max_blob_bytes: int, free_bytes: Callable[[], int] | None = None) -> None:
        """Start with a quota of 0 until update() is called.

        Args:
            max_blob_bytes: the largest blob accepted.
            free_bytes: returns the free room of the disk without blocking. Raises OSError.
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
    def max_blob_bytes(self) -> int:
        """The largest blob accepted."""
        return self._max_blob_bytes

    @property
    def quota_bytes(self) -> int:
        """How many bytes may be held."""
        return self.marks.quota_bytes

    def update(
        self, *, stored_bytes: int, marks: Marks, keep_free_bytes: int | None = None
    ) -> None:
        """Set new measurements. keep_free_bytes: a reserve that must never be used."""
        self.stored_bytes = stored_bytes
        self.marks = marks
        self._keep_free_bytes = keep_free_bytes

    def check_blob(self, digest: Digest) -> None:
        """Raise BlobTooLarge or StorageFull for a blob that no eviction could make room for."""
        if digest.size_bytes > self._max_blob_bytes:
            raise BlobTooLarge(digest, self._max_blob_bytes)
        if digest.size_bytes > self.quota_bytes:
            raise StorageFull(
                f"blob {digest} is larger than everything this node may keep "
                f"({self.quota_bytes} bytes); nothing was stored"
            )

    def reserve(self, size_bytes: int) -> None:
        """Reserve room until release() is called. Raises StorageFull."""
        if self.stored_bytes + self.reserved_bytes + size_bytes > self.quota_bytes:
            raise StorageFull(
                f"no room for {size_bytes} bytes: {self.stored_bytes} stored and "
                f"{self.reserved_bytes} being received of {self.quota_bytes}; try again later"
            )
        self._check_disk(size_bytes)
        self.reserved_bytes += size_bytes

    def _check_disk(self, size_bytes: int) -> None:
        """Ask the disk itself if little room is left: other programs and the catalogue write, too.

        Raises StorageFull.
        """
        keep = self._keep_free_bytes
        left = self.quota_bytes - self.stored_bytes - self.reserved_bytes - size_bytes
        if keep is None or self._free_bytes is None or left > _NEAR_BYTES:
            return
        try:
            free = self._free_bytes()
        except OSError:  # Flusher.measure, which runs every second, reports it
            return
        # What is being received may not have reached the disk yet, so its free room still has those
        # bytes.
        if free - self.reserved_bytes - size_bytes - CATALOGUE_BYTES < keep:
            raise StorageFull(
                f"no room for {size_bytes} bytes: {free} are free on the disk, of which {keep} "
                "are reserved; try again later"
            )

    def release(self, size_bytes: int) -> None:
        """End a reservation: the blob is stored, and counted as such, or dropped."""
        self.reserved_bytes -= size_bytes


class Reserve:
    """A file that occupies some of the disk, so that eviction can commit when the disk is full."""

    def __init__(self, directory: DataDirectory, settings: StorageConfig) -> None:
        self._directory = directory
        self._settings = settings

    def make(self) -> None:
        """Create the file if it is missing and the disk has plenty of room. Raises OSError."""
        disk = measure_disk(self._directory.root)
        room_bytes = min(self._settings.quota or disk.total_bytes, disk.total_bytes)
        size_bytes = min(_RESERVE_MAX_BYTES, room_bytes // _RESERVE_PART)
        # Only with room to spare, or making it would fill the disk that it is there for.
        if self._directory.reserve.exists() or disk.free_bytes < 8 * size_bytes:
            return
        with open(os.open(self._directory.reserve, CREATE, 0o600), "wb") as file:
            # Written, not cut to length: it has to take blocks of the disk.
            file.write(bytes(size_bytes))

    @contextmanager
    def as_last_resort(self) -> Iterator[None]:
        """Remove the file if the block raises StorageFull. The caller tries again later."""
        try:
            yield
        except StorageFull:
            self._directory.reserve.unlink(missing_ok=True)
            raise
