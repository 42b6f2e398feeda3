"""What a number of objects takes: rows, bytes, requests to the bucket, and time for the upkeep.

Arithmetic over constants of the product and of costs.py. The sizes of objects are those of a
recorded BuildStream session (benchmarks/recorded.json).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from federation.config.model import StorageConfig
from federation.storage.shared.catalogue import lead_work
from federation.storage.shared.naming import PART_BYTES, SLICES
from federation.storage.shared.upkeep import bucket_sweep, site_eviction
from tests.scale.costs import BUCKET, DATABASE, ROWS

GIB = 2**30
_DAY_S = 86_400.0
_MONTH_S = 30 * _DAY_S
_LIST_PAGE = 1000
_RECORDED = Path(__file__).parents[2] / "benchmarks" / "recorded.json"


class Mixture(NamedTuple):
    """Objects of a usual site, by an inline-max."""

    small_share: float  # of objects whose bytes are in the database
    small_bytes: float  # of one of these, on average
    large_bytes: float  # of one of the others
    parts: float  # in the bucket, of each of the others


@cache
def mixture(inline_max: int) -> Mixture:
    """Return what share of objects is in the database with this inline-max."""
    sizes = json.loads(_RECORDED.read_text())["sizes"]
    small = [size for size in sizes if size <= inline_max]
    large = [size for size in sizes if size > inline_max]
    parts = [-(-size // PART_BYTES) for size in large]
    return Mixture(
        len(small) / len(sizes),
        sum(small) / max(1, len(small)),
        sum(large) / max(1, len(large)),
        sum(parts) / max(1, len(parts)),
    )


class Holdings(NamedTuple):
    """What a site that holds so many objects takes."""

    objects: int
    inline_max: int
    rows_bytes: float  # of the database, without the bytes of small blobs
    inline_bytes: float
    log_bytes: float
    bucket_objects: float
    bucket_bytes: float

    @property
    def database_bytes(self) -> float:
        """All tables and indexes."""
        return self.rows_bytes + self.inline_bytes + self.log_bytes

    @property
    def sweep_s(self) -> float:
        """How long it takes to list the whole bucket and compare it with the catalogue once.

        One slice is swept at a time; a pause follows each.
        """
        pages = self.bucket_objects / _LIST_PAGE
        return (
            pages * (BUCKET.list_s + DATABASE.find.of(_LIST_PAGE)) + SLICES * bucket_sweep.EVERY_S
        )

    @property
    def scrub_s(self) -> float:
        """How long it takes to read all objects of the bucket at the default rate."""
        return self.bucket_bytes / StorageConfig().scrub.rate

    @property
    def bucket_month(self) -> float:
        """Dollars a month for room and for the sweep's lists."""
        lists = self.bucket_objects / _LIST_PAGE * _MONTH_S / self.sweep_s
        return self.bucket_bytes / GIB * BUCKET.gib_month + lists * BUCKET.list_


def holdings(objects: int, inline_max: int) -> Holdings:
    """Return what so many blobs take; one in ten has an index entry of its own."""
    mix = mixture(inline_max)
    small, large = objects * mix.small_share, objects * (1 - mix.small_share)
    return Holdings(
        objects,
        inline_max,
        objects * ROWS.blob + objects / 10 * ROWS.entry,
        small * (mix.small_bytes + ROWS.small),
        min(objects, StorageConfig().log_max_rows) * ROWS.log,
        large * mix.parts,
        large * mix.large_bytes,
    )


def evicted_s() -> float:
    """Return how many objects a second the lead of the upkeep can evict from the catalogue."""
    rows = lead_work._ROWS
    return rows / (DATABASE.evict.of(rows) + DATABASE.round_trip_s)


def deleted_s() -> float:
    """Return how many uploads a second it can delete from the bucket: one request at a time."""
    return site_eviction._DELETED_AT_ONCE / (BUCKET.delete_s + 2 * DATABASE.round_trip_s)
