"""Decisions without I/O: what is evicted, intervals from the lease, how much room there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.clock import ManualClock
from federation.digest import DigestFunction, digest_of
from federation.errors import BlobTooLarge, StorageFull, StorageRefused
from federation.storage.directory import DataDirectory, parse_blob_name
from federation.storage.eviction import choose
from federation.storage.schema import check_library
from federation.storage.space import Disk, Space, effective_quota
from federation.storage.timing import StoreClock, Timing

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


def test_s13_a_quota_larger_than_the_disk_is_cut_to_it() -> None:
    disk = Disk(total_bytes=1000, free_bytes=300)
    assert effective_quota(10_000, reserve_bytes=20, disk=disk, stored_bytes=500) == 780
    assert effective_quota(None, reserve_bytes=500, disk=disk, stored_bytes=500) == 750
    assert effective_quota(100, reserve_bytes=20, disk=disk, stored_bytes=500) == 100


def test_s24_s25_room_is_reserved_before_the_first_byte() -> None:
    space = Space(max_blob_bytes=500)
    space.update(stored_bytes=0, quota_bytes=400)
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
