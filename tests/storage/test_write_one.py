"""A small blob that comes whole: one visit to the writer, and nothing written if it is held."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from federation.core.digest import Digest
from federation.core.errors import StorageFailed, StorageFull
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.uses import Use, counted_as
from federation.storage.catalogue.blobs import key_of, look_up
from federation.storage.storage import Storage
from federation.storage.upkeep.eviction import Evictor
from tests.storage.conftest import fresh, put, read, short

Opener = Callable[..., Awaitable[Storage]]
LEASE_MS = 3_600_000
PULLED = Provenance(Source.UPSTREAM, origin="there")


@pytest.fixture
async def storage(open_storage: Opener) -> Storage:
    return await open_storage(short(lease=LEASE_MS / 1000))


def row(storage: Storage, digest: Digest) -> Any:
    key = key_of(digest)
    return look_up(storage.core.pool.connection(), [key])[key]


def forget(storage: Storage) -> None:
    """Let the next write ask the catalogue."""
    storage.core.epoch.bump()


async def age(storage: Storage, by_ms: int) -> None:
    await storage.flusher.flush()
    storage.core.store_clock._base_ms += by_ms


def commits(storage: Storage) -> int:
    found: Any = storage.core.pool.connection().execute("PRAGMA data_version").fetchone()
    return int(found[0])


async def test_a_held_blob_is_leased_and_nothing_is_written(storage: Storage) -> None:
    digest, data = fresh(1000)
    assert await storage.write_one(digest, data)
    await age(storage, LEASE_MS)
    forget(storage)
    before = commits(storage), storage.core.writer.totals.seq
    assert not await storage.write_one(digest, data)
    assert (commits(storage), storage.core.writer.totals.seq) == before
    used_ms = row(storage, digest).used_ms
    await storage.flusher.flush()
    assert row(storage, digest).used_ms >= used_ms + LEASE_MS


async def test_a_blob_written_a_moment_ago_needs_no_look(storage: Storage) -> None:
    digest, data = fresh(1000)
    assert await storage.write_one(digest, data)
    storage.core.writer.failure = "it must not be asked"
    assert not await storage.write_one(digest, data)
    assert not await storage.write_one(digest, b"whatever")
    storage.core.writer.failure = None


@pytest.mark.parametrize("size", [1000, 80_000])
async def test_a_blob_that_is_evicted_or_lost_is_stored_again(storage: Storage, size: int) -> None:
    digest, data = fresh(size)
    assert await storage.write_one(digest, data)
    assert not await storage.write_one(digest, data)
    await age(storage, 2 * LEASE_MS)
    await Evictor(storage.core).mark(2**40)
    assert await storage.find_missing([digest])
    await storage.write_one(digest, data)  # its bytes are there, marked
    assert not await storage.find_missing([digest])
    await age(storage, 2 * LEASE_MS)
    await Evictor(storage.core).mark(2**40)
    storage.core.store_clock._base_ms += storage.core.timing.grace_ms + 1
    assert await Evictor(storage.core).sweep_due() == size
    assert await storage.write_one(digest, data)
    assert await read(storage, digest) == data


@pytest.mark.parametrize("size", [1000, 80_000])
async def test_what_an_upstream_gave_becomes_the_uploaders(storage: Storage, size: int) -> None:
    digest, data = fresh(size)
    await storage.write_small([(digest, data)], provenance=PULLED)
    seq = row(storage, digest).seq
    assert not await storage.write_one(digest, data)
    assert row(storage, digest).source == Source.CLIENT
    assert row(storage, digest).seq > seq
    assert not await storage.write_one(digest, data)


async def test_a_peer_writes_its_age_and_its_lease_in_the_transaction(storage: Storage) -> None:
    digest, data = fresh(1000)
    assert await storage.write_one(digest, data)
    await age(storage, LEASE_MS)
    used_ms = row(storage, digest).used_ms
    with counted_as(Use.LEASE):
        old = Provenance(Source.PEER, unused_s=9000.0)
        assert not await storage.write_one(digest, data, provenance=old)
    assert row(storage, digest).used_ms == used_ms
    assert row(storage, digest).leased_ms >= used_ms + LEASE_MS


async def test_a_lease_is_written_at_once_while_others_wait_to_be(storage: Storage) -> None:
    digest, data = fresh(1000)
    assert await storage.write_one(digest, data)
    await age(storage, LEASE_MS)
    forget(storage)
    storage.core.touches.blobs([b"something else"], 0)
    assert storage.core.is_behind()
    used_ms = row(storage, digest).used_ms
    assert not await storage.write_one(digest, data)
    assert row(storage, digest).used_ms >= used_ms + LEASE_MS
    assert storage.core.is_behind(), "this test has not tested what it should"


async def test_nothing_is_answered_from_memory_while_leases_wait_to_be_written(
    storage: Storage,
) -> None:
    digest, data = fresh(1000)
    assert await storage.write_one(digest, data)
    storage.core.touches.blobs([b"something else"], 0)
    assert storage.core.is_behind()
    before = commits(storage)
    assert not await storage.write_one(digest, data)
    assert commits(storage) != before


@pytest.mark.parametrize("size", [1000, 80_000])
async def test_a_full_store_takes_what_it_holds_and_refuses_nothing_for_it(
    storage: Storage, size: int
) -> None:
    digest, data = fresh(size)
    assert await storage.write_one(digest, data)
    forget(storage)
    storage.core.space.reserve(storage.quota_bytes - storage.core.space.stored_bytes - 100)
    assert not await storage.write_one(digest, data)
    assert storage.core.refused_ms is None
    with pytest.raises(StorageFull):
        await storage.write_one(*fresh(size))
    assert storage.core.refused_ms is not None


async def test_a_store_that_is_read_only_takes_what_it_holds(storage: Storage) -> None:
    digest, data = fresh(1000)
    assert await storage.write_one(digest, data)
    forget(storage)
    storage.core.writer.failure = "a disk error"
    assert not await storage.write_one(digest, data)
    with pytest.raises(StorageFailed):
        await storage.write_one(*fresh(1000))
    storage.core.writer.failure = None


async def test_room_is_released_however_a_write_ends(storage: Storage) -> None:
    digest, data = fresh(1000)
    for _ in range(2):
        await storage.write_one(digest, data)
        forget(storage)
    digest, _ = fresh(1000)
    await storage.write_one(*fresh(80_000), provenance=FROM_CLIENT)
    assert storage.core.space.reserved_bytes == 0
    assert storage.core.writer.pending_bytes == 0
    await put(storage, os.urandom(10))
