"""S25: room is taken by bytes that have come, not by sizes that were only named."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageFull
from federation.core.index import Entry, EntryKey, EntryKind
from federation.storage.storage import Storage
from tests.storage.conftest import MIB, fresh, put, short, until

Opener = Callable[..., Awaitable[Storage]]


def named(number: int, size_bytes: int) -> Digest:
    return Digest(digest_of(b"%d" % number).hash, size_bytes)


async def test_s25_names_alone_take_no_room_and_evict_nothing(open_storage: Opener) -> None:
    # What is held stays below the watermark, so that it does not depend on its leases.
    storage = await open_storage(short(quota=5 * MIB))
    held = [await put(storage, os.urandom(MIB)) for _ in range(3)]
    ingests = [storage.begin(named(at, 3 * MIB)) for at in range(20)]
    for ingest in ingests:
        await ingest.append(b"x")
    assert storage.core.space.reserved_bytes == len(ingests)
    await put(storage, os.urandom(MIB // 2))
    await storage.maintenance._tick()
    assert await storage.find_missing(held) == set()
    for ingest in ingests:
        await ingest.abort()
    assert storage.core.space.reserved_bytes == 0


async def test_s25_bytes_without_room_are_refused_before_any_is_taken(open_storage: Opener) -> None:
    storage = await open_storage(short(quota=5 * MIB, lease=60.0))
    first, second = storage.begin(named(1, 3 * MIB)), storage.begin(named(2, 3 * MIB))
    await first.append(bytes(3 * MIB - 1))
    await second.append(bytes(MIB))
    with pytest.raises(StorageFull):
        await second.append(bytes(MIB))
    assert second.received_bytes == MIB
    assert storage.core.space.reserved_bytes == 4 * MIB - 1
    await first.abort()
    await second.append(bytes(MIB))  # the same bytes again, now that there is room
    assert second.received_bytes == 2 * MIB
    await second.abort()
    assert storage.core.space.reserved_bytes == 0


async def test_room_is_made_while_an_upload_comes(open_storage: Opener) -> None:
    storage = await open_storage(short(quota=10 * MIB))
    for _ in range(8):
        await put(storage, os.urandom(MIB))
    data = os.urandom(6 * MIB)

    async def stored() -> bool:
        ingest = storage.begin(digest_of(data))
        try:
            for at in range(0, len(data), MIB):
                await ingest.append(data[at : at + MIB])
            return await ingest.commit()
        except StorageFull:
            return False
        finally:
            await ingest.abort()

    await until(stored)


async def test_what_is_left_of_refused_uploads_is_given_back(open_storage: Opener) -> None:
    storage = await open_storage(short(quota=MIB, lease=60.0))
    blobs = [(digest_of(data), data) for data in (os.urandom(MIB // 2) for _ in range(4))]
    outcomes = await storage.write_small(blobs)
    assert [isinstance(each, StorageFull) for each in outcomes].count(True) >= 2
    assert storage.core.space.reserved_bytes == 0


@pytest.mark.parametrize("how", ["inline", "file", "streamed", "entry"])
async def test_s24_what_another_process_has_just_stored_counts_before_it_is_measured(
    open_storage: Opener, how: str
) -> None:
    settings = short(quota=5 * MIB, reserve=0, lease=60.0)
    first, second = await open_storage(settings), await open_storage(settings)
    space = second.core.space
    before = space.stored_bytes
    for _ in range(20):
        await first.write_small([fresh(200_000)])
    space.stored_bytes = before  # as measured a second ago
    assert space.quota_bytes - before > 4 * MIB
    if how == "streamed":
        digest, data = fresh(1_500_000)
        ingest = second.begin(digest)
        await ingest.append(data)
        with pytest.raises(StorageFull):
            await ingest.commit()
    elif how == "entry":
        key = EntryKey(EntryKind.ASSET_BLOB, "", b"k" * 32)
        with pytest.raises(StorageFull):
            await second.put([Entry(key, os.urandom(1_500_000), "uri")])
    else:
        size_bytes = 1000 if how == "inline" else 100_000
        batch = [fresh(size_bytes) for _ in range(1_500_000 // size_bytes)]
        refused = await second.write_small(batch)
        assert any(isinstance(each, StorageFull) for each in refused)


async def test_a_measurement_begun_before_an_upload_does_not_undo_it(open_storage: Opener) -> None:
    storage = await open_storage()
    before = storage.flusher._measure()
    await put(storage, os.urandom(MIB))
    storage.flusher._measure = lambda: before  # type: ignore[method-assign]
    await storage.flusher.measure()
    assert storage.core.space.stored_bytes > MIB
