"""Decisions without I/O: what is evicted, intervals from the lease, how much room there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.config.model import StorageConfig as Settings
from federation.core.clock import ManualClock
from federation.core.digest import DigestFunction, digest_of
from federation.core.errors import BlobTooLarge, StorageFull, StorageRefused
from federation.storage.catalogue.schema import check_library
from federation.storage.directory import DataDirectory, parse_blob_name
from federation.storage.space import CATALOGUE_BYTES, Disk, Marks, Space, marks
from federation.storage.timing import StoreClock, Timing
from federation.storage.upkeep.eviction import choose

MIB = 2**20

_aged = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 100)), max_size=30)


@given(_aged, _aged, st.integers(0, 2000))
def test_choose_takes_the_oldest_of_both_and_just_enough(
    blobs: list[tuple[int, int]], index: list[tuple[int, int]], needed: int
) -> None:
    rows = sorted((accessed, size, bytes([n])) for n, (accessed, size) in enumerate(blobs))
    entries = sorted((accessed, size, n) for n, (accessed, size) in enumerate(index))
    choice = choose(rows, entries, needed)
    total = sum(size for _, size in blobs + index)
    assert choice.size_bytes >= min(needed, total)
    taken_sizes = sorted(
        [size for accessed, size, key in rows if (accessed, key) in choice.blobs]
        + [size for accessed, size, row in entries if (accessed, row) in choice.entries]
    )
    assert sum(taken_sizes) == choice.size_bytes
    if taken_sizes:
        assert choice.size_bytes - taken_sizes[-1] < needed
    taken = [accessed for accessed, _ in choice.blobs + choice.entries]
    kept = [a for a, _, key in rows if (a, key) not in choice.blobs]
    assert not taken or not kept or max(taken) <= max(kept)


@given(st.floats(0.001, 1e7))
def test_a_touch_is_always_written_before_eviction_looks_again(lease_s: float) -> None:
    timing = Timing.for_lease(lease_s)
    assert timing.flush_ms < timing.unflushed_max_ms < timing.grace_ms
    assert timing.cutoff_age_ms >= timing.lease_ms + timing.granularity_ms


def test_store_time_ignores_the_wall_clock() -> None:
    clock = ManualClock(monotonic_s=50.0)
    store_clock = StoreClock(clock, base_ms=7)
    before = store_clock.now_ms()
    clock.step_wall(5 * 86400)
    assert store_clock.now_ms() == before
    clock.advance(2)
    assert store_clock.now_ms() == before + 2000


def settings(**keys: object) -> Settings:
    return Settings.model_validate({key.replace("_", "-"): value for key, value in keys.items()})


def disk(total: int, free: int) -> Disk:
    return Disk(total * MIB, free * MIB)


def in_mib(found: Marks) -> tuple[int, ...]:
    return tuple(round(each / MIB) for each in found)


LOG = CATALOGUE_BYTES // MIB  # what the catalogue may need beside an exact reserve


def test_s13_a_quota_beyond_the_disk_is_what_the_disk_has_less_the_reserve() -> None:
    some, stored = disk(1000, 300), 500 * MIB
    assert (
        marks(settings(quota="10G", reserve="20M"), some, stored).quota_bytes == (780 - LOG) * MIB
    )
    assert marks(settings(reserve="300M"), some, stored).quota_bytes == (500 - LOG) * MIB
    assert marks(settings(reserve=0), some, stored).quota_bytes == 800 * MIB
    assert marks(settings(), some, stored).quota_bytes == 750 * MIB, "5 % of a small disk"
    assert marks(settings(quota="100M", reserve="20M"), some, stored).quota_bytes == 100 * MIB
    assert marks(settings(reserve="900M"), some, stored).quota_bytes == 0


def test_eviction_works_between_the_watermarks() -> None:
    some = disk(10_000, 5000)
    assert in_mib(marks(settings(quota="1000M"), some, 500 * MIB)) == (1000, 950, 900)
    assert in_mib(marks(settings(reserve=0), some, 500 * MIB)) == (5500, 5225, 4950)


def test_with_a_reserve_max_eviction_begins_near_the_reserve_and_reaches_the_maximum() -> None:
    keys = settings(reserve=f"{100 - LOG}M", reserve_max="300M")
    assert in_mib(marks(keys, disk(1000, 300), 700 * MIB)) == (900, 850, 700)
    found = marks(keys, disk(1000, 120), 880 * MIB)
    assert found.starts_at_bytes < 880 * MIB
    assert in_mib(found)[2] == 880 - (300 - 120), "what has to go until 300 are free"


def test_quota_and_disk_are_two_bounds_and_the_nearer_one_counts() -> None:
    keys = settings(quota="1000M", reserve=f"{100 - LOG}M", reserve_max="300M")
    plenty = disk(10_000, 9000)
    assert in_mib(marks(keys, plenty, 960 * MIB)) == (1000, 950, 900), "the disk asks for nothing"
    assert in_mib(marks(keys, disk(1000, 110), 800 * MIB)) == (810, 760, 610), "it asks first"


def test_a_reserve_max_that_the_disk_cannot_have_is_half_of_it() -> None:
    keys = settings(reserve="10M", reserve_max="10G")
    assert in_mib(marks(keys, disk(1000, 5), 900 * MIB))[2] == 905 - 500


@given(
    st.integers(0, 2000), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000),
    st.none() | st.integers(1, 3000),
)  # fmt: skip
def test_marks_are_in_order_and_the_reserve_is_kept(
    stored: int, free: int, reserve: int, more: int, quota: int | None
) -> None:
    keys = settings(
        quota=quota and quota * MIB, reserve=reserve * MIB, reserve_max=(reserve + more) * MIB
    )
    found = marks(keys, disk(4000, free), stored * MIB)
    assert 0 <= found.target_bytes <= found.starts_at_bytes <= found.quota_bytes
    assert found.quota_bytes <= max(0, stored + free - reserve) * MIB


def test_near_the_end_the_disk_itself_is_asked() -> None:
    free = 100 * MIB
    space = Space(2**40, lambda: free)
    space.update(stored_bytes=0, marks=Marks(80 * MIB, 1, 1), keep_free_bytes=50 * MIB)
    space.reserve(10 * MIB)  # 70 are left, more than near
    space.reserve(10 * MIB)
    free = 80 * MIB
    with pytest.raises(StorageFull, match="are free on the disk"):
        space.reserve(7 * MIB)
    space.reserve(6 * MIB)


def test_s24_s25_room_is_reserved_before_the_first_byte() -> None:
    space = Space(max_blob_bytes=500)
    space.update(stored_bytes=0, marks=Marks(400, 380, 360))
    digest = digest_of(b"x")
    with pytest.raises(BlobTooLarge):
        space.check_blob(digest._replace(size_bytes=501))
    with pytest.raises(StorageFull):
        space.check_blob(digest._replace(size_bytes=401))
    for _ in range(5):
        space.reserve(80)
    with pytest.raises(StorageFull):
        space.reserve(1)
    space.release(80)
    space.reserve(80)


def test_blob_file_names_round_trip_and_others_are_no_blobs() -> None:
    directory = DataDirectory(Path("/d"))
    for function in DigestFunction:
        digest = digest_of(b"abc", function)
        assert parse_blob_name(directory.blob_path(digest).rpartition("/")[2]) == digest
    for name in ("", "x", "a" * 64, f"{'a' * 64}-01", f"{'A' * 64}-1", f"{'a' * 64}-1.tmp"):
        assert parse_blob_name(name) is None


@pytest.mark.parametrize("version", ["3.51.2", "3.40.0", "2.99"])
def test_s34_an_old_sqlite_is_refused_with_the_fix(version: str) -> None:
    with pytest.raises(StorageRefused, match="pip install"):
        check_library(version)
    assert check_library("3.51.3") == "3.51.3"
