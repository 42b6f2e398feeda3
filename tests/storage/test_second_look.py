"""Eviction looks twice: what is marked is missing at once, gone only later, and back when used.

Time is moved instead of waited for; an evictor is driven by hand, as if by another process.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.config.model import LimitsConfig
from federation.core.clock import SystemClock
from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.uses import Use, counted_as
from federation.observability.metrics import Metrics
from federation.storage.access_times import Touches
from federation.storage.catalogue import entry_removal
from federation.storage.storage import Storage
from federation.storage.upkeep.eviction import Evictor
from tests.storage.conftest import put, read, short

LEASE_S = 100.0
LONG_S = 2 * LEASE_S  # after which nothing is leased any more
ALL = 2**40


class MovedClock(SystemClock):
    """The machine's clock, some time later."""

    def __init__(self) -> None:
        self.later_s = 0.0

    def monotonic_s(self) -> float:
        """See Clock."""
        return super().monotonic_s() + self.later_s


class Site:
    """A storage nobody evicts from but the test."""

    def __init__(self, storage: Storage, clock: MovedClock) -> None:
        self.storage = storage
        self.clock = clock
        self.evictor = Evictor(storage.core)

    async def missing(self, *digests: Digest) -> set[Digest]:
        return await self.storage.find_missing(digests)

    async def flush(self) -> None:
        """Write down what was leased."""
        await self.storage.flusher.flush()

    def pass_grace(self) -> None:
        self.clock.later_s += self.storage.core.timing.grace_ms / 1000 + 1


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Site]:
    clock = MovedClock()
    storage = await Storage.open(
        path, short(lease=LEASE_S), LimitsConfig(), Metrics(), clock, maintain=False
    )
    try:
        yield Site(storage, clock)
    finally:
        await storage.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path / "data") as found:
        yield found


async def test_what_is_marked_is_missing_at_once_and_no_memory_says_otherwise(site: Site) -> None:
    blob, file = (
        await put(site.storage, os.urandom(100)),
        await put(site.storage, os.urandom(80_000)),
    )
    epoch = site.storage.core.epoch.value
    site.clock.later_s += LONG_S
    assert await site.evictor.mark(ALL) > 0
    assert site.storage.core.epoch.value != epoch
    assert await site.missing(blob, file) == {blob, file}


async def test_what_is_found_is_leased_from_then_on(site: Site) -> None:
    blob, file = (
        await put(site.storage, os.urandom(100)),
        await put(site.storage, os.urandom(80_000)),
    )
    site.clock.later_s += LONG_S
    assert await site.missing(blob, file) == set()
    await site.flush()
    assert await site.evictor.mark(ALL) == 0
    site.clock.later_s += LEASE_S
    assert await site.evictor.mark(ALL) == 0
    assert len(await read(site.storage, file)) == 80_000


async def test_a_lease_that_was_not_yet_written_when_the_blob_was_marked_counts(site: Site) -> None:
    blob, other = await put(site.storage, os.urandom(100)), await put(site.storage, os.urandom(100))
    site.clock.later_s += LONG_S
    assert await site.missing(blob) == set()
    assert await site.evictor.mark(ALL) > 0
    assert await site.evictor.sweep_due() == 0  # it waits for such leases
    await site.flush()
    site.pass_grace()
    assert await site.evictor.sweep_due() == 100
    assert await site.missing(blob, other) == {other}


async def test_what_is_read_while_it_is_marked_is_back(site: Site) -> None:
    small, file = (
        await put(site.storage, os.urandom(100)),
        await put(site.storage, os.urandom(80_000)),
    )
    site.clock.later_s += LONG_S
    assert await site.evictor.mark(ALL) > 0
    assert await read(site.storage, small)
    assert await read(site.storage, file)
    await site.flush()
    assert await site.missing(small, file) == set()


async def test_a_second_look_that_comes_late_leaves_what_was_used_since_the_first(
    site: Site,
) -> None:
    used, unused = (
        await put(site.storage, os.urandom(100)),
        await put(site.storage, os.urandom(100)),
    )
    site.clock.later_s += LONG_S
    assert await site.evictor.mark(ALL) > 0
    assert await read(site.storage, used)
    await site.flush()
    site.clock.later_s += LONG_S  # its lease is over, but it was not called missing again
    assert await site.evictor.sweep_due() == 100
    assert await site.missing(used, unused) == {unused}


@pytest.mark.parametrize("column", ["used", "leased"])
async def test_the_second_look_looks_at_the_times_and_does_not_rest_on_the_mark(
    site: Site, column: str
) -> None:
    """Whatever wrote a time and left the mark."""
    blob = await put(site.storage, os.urandom(100))
    site.clock.later_s += LONG_S
    assert await site.evictor.mark(ALL) > 0
    now_ms = site.storage.core.now_ms()
    await site.storage.core.writer.submit(
        lambda transaction: transaction.connection.execute(
            f"UPDATE blob SET {column} = ?",
            (now_ms,),
        )
    )
    site.pass_grace()
    assert await site.evictor.sweep_due() == 0
    assert await read(site.storage, blob)


async def test_what_is_remembered_of_blobs_ends_with_their_deletion_too(site: Site) -> None:
    """Whatever was remembered between the mark and the deletion."""
    await put(site.storage, os.urandom(100))
    site.clock.later_s += LONG_S
    assert await site.evictor.mark(ALL) > 0
    site.pass_grace()
    epoch = site.storage.core.epoch.value
    assert await site.evictor.sweep_due() == 100
    assert site.storage.core.epoch.value != epoch


async def test_an_entry_that_was_used_since_it_was_chosen_stays(site: Site) -> None:
    names = [EntryKey(EntryKind.ASSET_BLOB, "", name * 32) for name in (b"u", b"n")]
    used, unused = names
    await site.storage.put([Entry(name, b"value", "uri") for name in names])
    site.clock.later_s += LONG_S
    chosen = [1, 2]
    before_ms = site.storage.core.now_ms()
    assert None not in await site.storage.get([used])
    await site.flush()
    deleted, _ = await site.storage.core.writer.submit(
        lambda transaction: entry_removal.delete(transaction, chosen, before_ms)
    )
    assert deleted == 1
    assert [found is None for found in await site.storage.get([used, unused])] == [False, True]


async def test_after_the_death_of_a_process_what_is_marked_is_there_again(site: Site) -> None:
    """It may have leased it: who asked it may ask another process now."""
    blob = await put(site.storage, os.urandom(100))
    site.clock.later_s += LONG_S
    maintenance = site.storage.maintenance
    assert await maintenance.try_to_hold()
    assert await maintenance.evict(0) > 0
    assert await site.missing(blob) == {blob}
    (site.storage.core.directory.run / "deadbeef.lock").touch()
    await maintenance._tick()
    assert await site.missing(blob) == set()


async def test_what_a_peer_was_told_is_leased_like_what_clients_use(site: Site) -> None:
    blob = await put(site.storage, os.urandom(100))
    site.clock.later_s += LONG_S
    with counted_as(Use.LEASE):
        assert await site.missing(blob) == set()
    await site.flush()
    assert await site.evictor.mark(ALL) == 0


async def test_what_a_peer_was_told_just_before_the_mark_is_back(site: Site) -> None:
    blob = await put(site.storage, os.urandom(100))
    site.clock.later_s += LONG_S
    with counted_as(Use.LEASE):
        assert await site.missing(blob) == set()
    assert await site.evictor.mark(ALL) > 0
    await site.flush()
    site.pass_grace()
    assert await site.evictor.sweep_due() == 0
    assert await site.missing(blob) == set()


async def test_an_upload_of_what_is_marked_brings_it_back(site: Site) -> None:
    data, file = os.urandom(100), os.urandom(80_000)
    blobs = [await put(site.storage, each) for each in (data, file)]
    site.clock.later_s += LONG_S
    assert await site.evictor.mark(ALL) > 0
    assert [await put(site.storage, each) for each in (data, file)] == blobs
    assert await site.missing(*blobs) == set()


def test_what_a_failed_flush_did_not_write_keeps_its_age_and_is_written_by_the_next() -> None:
    touches = Touches()
    touches.blobs([b"old"], 1_000)
    touches.take()
    touches.blobs([b"new"], 5_000)
    touches.failed()
    assert touches.unflushed_since_ms() == 1_000
    batch = touches.take()
    assert batch.blobs == {b"old": 1_000, b"new": 5_000}
    assert touches.unflushed_since_ms() == 1_000  # while it is written, too
    touches.flushed()
    assert touches.unflushed_since_ms() is None
