"""Blobs of a batch that are too large for the catalogue, stored together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from federation.core.digest import Digest, digest_of
from federation.core.errors import FederationError, StorageFull
from federation.storage.storage import Storage
from tests.storage.conftest import MIB, read, short, until

_FILE_BYTES = 80_000

Open = Callable[..., Awaitable[Storage]]


def blobs(count: int, size_bytes: int = _FILE_BYTES) -> list[tuple[Digest, bytes]]:
    made = [os.urandom(size_bytes) for _ in range(count)]
    return [(digest_of(data), data) for data in made]


async def nothing_is_left(storage: Storage) -> None:
    """Wait until what was received is gone, and see that no room is reserved for it any more."""

    async def is_empty() -> bool:
        return not list(storage.core.directory.incoming.iterdir())

    await until(is_empty)
    assert storage.core.space.reserved_bytes == 0


async def test_more_files_than_are_open_at_once_small_ones_between_them(open_storage: Open) -> None:
    storage = await open_storage()
    sent = [one for pair in zip(blobs(150), blobs(150, 100), strict=True) for one in pair]
    sent += sent[:3]
    assert await storage.write_small(sent) == [None] * len(sent)
    for digest, data in sent:
        assert await read(storage, digest) == data
    await nothing_is_left(storage)


async def test_one_that_is_held_and_one_whose_file_was_cut(open_storage: Open) -> None:
    storage = await open_storage()
    sent = blobs(4)
    assert await storage.write_small(sent[:2]) == [None, None]
    cut = sent[1][0]
    os.truncate(storage.core.directory.blob_path(cut), 5)
    assert await storage.find_missing([cut]) == {cut}
    assert await storage.write_small(sent) == [None] * 4
    assert [await read(storage, digest) for digest, _ in sent] == [data for _, data in sent]
    await nothing_is_left(storage)


async def test_wrong_bytes_concern_their_blob_alone(open_storage: Open) -> None:
    storage = await open_storage()
    sent = blobs(3)
    wrong = [sent[0], (sent[1][0], sent[2][1]), sent[2]]
    first, second, third = await storage.write_small(wrong)
    assert (first, third) == (None, None)
    assert isinstance(second, FederationError)
    assert await storage.find_missing([digest for digest, _ in sent]) == {sent[1][0]}


async def test_those_without_room_are_refused_and_the_others_kept(
    open_storage: Open,
) -> None:
    storage = await open_storage(short(quota="1M", reserve=0, lease=3600))
    sent = blobs(MIB // _FILE_BYTES + 4)
    outcomes = await storage.write_small(sent)
    assert outcomes[0] is None
    assert isinstance(outcomes[-1], StorageFull)
    refused = {d for (d, _), outcome in zip(sent, outcomes, strict=True) if outcome is not None}
    assert await storage.find_missing([digest for digest, _ in sent]) == refused
    await nothing_is_left(storage)


async def test_a_caller_that_leaves_does_not_stop_it_halfway(open_storage: Open) -> None:
    storage = await open_storage()
    sent = blobs(20)
    writing = asyncio.ensure_future(storage.write_small(sent))

    async with asyncio.timeout(60):
        # At each turn of the loop: the room is reserved for as long as twenty files take, which
        # may be less than the time between two looks of a poll.
        while storage.core.space.reserved_bytes == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not writing.done()
    writing.cancel()
    await asyncio.wait([writing])

    async def stored() -> bool:
        return not await storage.find_missing([digest for digest, _ in sent])

    await until(stored)
    await nothing_is_left(storage)
