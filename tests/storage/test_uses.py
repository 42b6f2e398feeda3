"""What a look at storage leaves behind: a client's use, a lease alone, or nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.store import DigestCodec, Entry, EntryKey, EntryKind
from federation.core.uses import Peek, Use, counted_as
from federation.storage import Storage
from federation.storage.catalogue.blobs import key_of
from tests.storage.conftest import put, read, short

Opener = Callable[..., Awaitable[Storage]]

SIZES = [1000, 100_000]  # in the catalogue, in a file


def row_of(storage: Storage, digest: Digest) -> Any:
    connection = storage.core.pool.connection()
    return connection.execute("SELECT * FROM blob WHERE key = ?", (key_of(digest),)).fetchone()


async def age_all(storage: Storage) -> None:
    """Make every written time so old that any use is written."""
    await storage.pulse.flush()
    await storage.core.writer.submit(
        lambda tx: tx.connection.execute(
            "UPDATE blob SET used = -9e6; UPDATE entry SET used = -9e6"
        ).fetchall()
    )
    storage.core.epoch.bump()


@pytest.mark.parametrize("size", SIZES)
async def test_a_peek_leaves_no_trace(open_storage: Opener, size: int) -> None:
    storage = await open_storage(short(lease=3600))
    digest = await put(storage, os.urandom(size))
    await age_all(storage)
    before = row_of(storage, digest)
    peek = Peek(storage)
    assert await peek.find_missing([digest]) == set()
    assert (await peek.read_small([digest]))[0] is not None
    async with peek.open_read(digest) as chunks:
        assert digest_of(b"".join([chunk async for chunk in chunks])) == digest
    with counted_as(Use.PEEK):
        assert await storage.find_missing_named([b"n"], spelling(digest)) == set()
    await storage.pulse.flush()
    assert row_of(storage, digest) == before
    await storage.find_missing([digest])
    await storage.pulse.flush()
    assert row_of(storage, digest) != before, "this test would not see a trace"


def spelling(digest: Digest) -> DigestCodec:
    return DigestCodec(lambda names: [digest.hash for _ in names], lambda _: digest.size_bytes)


async def test_a_peek_at_what_is_read_often_does_not_keep_it_leased(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    digest = await put(storage, os.urandom(1000))
    for _ in range(3):
        await read(storage, digest)
    await storage.pulse.flush()
    for name, hot in list(storage.core.hot._blobs.items()):
        storage.core.hot._blobs[name] = hot._replace(used_ms=-9_000_000)
    await Peek(storage).read_small([digest])
    assert not storage.core.touches._gathering.blobs
    await storage.read_small([digest])
    assert storage.core.touches._gathering.blobs, "this test would not see a touch"


async def test_a_peek_at_an_entry_is_no_use_of_it(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    key = EntryKey(EntryKind.ASSET_BLOB, "", b"k" * 32)
    await storage.put([Entry(key, b"v", "uri")])
    await age_all(storage)
    with counted_as(Use.PEEK):
        (entry,) = await storage.get([key])
    assert entry is not None
    assert not storage.core.touches._gathering.entries
    await storage.get([key])
    assert storage.core.touches._gathering.entries


async def test_a_peek_is_answered_while_no_lease_can_be_given(open_storage: Opener) -> None:
    """It promises nothing, so a disk that hangs does not make what is held look missing."""
    storage = await open_storage(short(lease=3600))
    digest = await put(storage, os.urandom(1000))
    await age_all(storage)
    long_ago = storage.core.now_ms() - storage.core.timing.unflushed_max_ms * 2
    storage.core.touches.blobs([b"other"], long_ago)
    assert storage.core.is_behind()
    assert await Peek(storage).find_missing([digest]) == set()
    assert await storage.find_missing([digest]) == {digest}
