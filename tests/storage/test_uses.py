"""What a look at storage leaves behind: a client's use, a lease alone, or nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Provenance, Source
from federation.core.store import DigestCodec
from federation.core.uses import Peek, Use, counted_as
from federation.storage.catalogue.blobs import key_of
from federation.storage.storage import Storage
from federation.wire.holdings import name_of
from tests.storage.conftest import put, read, short

Opener = Callable[..., Awaitable[Storage]]

SIZES = [1000, 100_000]  # in the catalogue, in a file


def row_of(storage: Storage, digest: Digest) -> Any:
    connection = storage.core.pool.connection()
    return connection.execute("SELECT * FROM blob WHERE key = ?", (key_of(digest),)).fetchone()


async def age_all(storage: Storage) -> None:
    """Let so much time pass that no lease runs, and any use is written."""
    await storage.flusher.flush()
    storage.core.store_clock._base_ms += 9_000_000
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
    assert await storage.ledger.held_like([name_of(digest)]) == {name_of(digest)}
    await storage.flusher.flush()
    assert row_of(storage, digest) == before
    await storage.find_missing([digest])
    await storage.flusher.flush()
    assert row_of(storage, digest) != before, "this test would not see a trace"


def spelling(digest: Digest) -> DigestCodec:
    return DigestCodec(lambda names: [digest.hash for _ in names], lambda _: digest.size_bytes)


async def test_a_peek_at_what_is_read_often_does_not_keep_it_leased(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    digest = await put(storage, os.urandom(1000))
    for _ in range(3):
        await read(storage, digest)
    await storage.flusher.flush()
    for name, hot in list(storage.core.read_cache._blobs.items()):
        storage.core.read_cache._blobs[name] = hot._replace(used_ms=-9_000_000)
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


async def test_a_lease_alone_protects_a_blob_and_is_no_use_of_it(open_storage: Opener) -> None:
    """What a peer that replicates is told to be held stays, and stays where it is in the order."""
    storage = await open_storage(short(lease=3600))
    asked, other = await put(storage, b"asked"), await put(storage, b"other")
    await age_all(storage)
    before = row_of(storage, asked)
    with counted_as(Use.LEASE):
        assert await storage.find_missing([asked]) == set()
    await storage.flusher.flush()
    after = row_of(storage, asked)
    assert after[:8] == before[:8]
    assert after[8] > before[8]
    await storage.maintenance.evict(0)
    assert await Peek(storage).find_missing([asked, other]) == {other}


async def test_a_lease_revives_what_is_marked(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    asked = await put(storage, b"asked")
    await storage.flusher.close()  # no flush but the one below
    await age_all(storage)
    storage.core.touches.leased([key_of(asked)], storage.core.now_ms())
    await storage.maintenance.evict(0)
    assert row_of(storage, asked)[7] > 0, "it was not marked"
    await storage.flusher.flush()
    assert row_of(storage, asked)[7] == 0


async def test_what_a_peer_sent_keeps_its_place_and_is_leased(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    held = await put(storage, b"held")
    came = Provenance(Source.PEER, ("there",), "there", unused_s=900.0)
    sizes = (10, 100_000)
    sent = [(digest_of(b"s" * size), b"s" * size) for size in sizes]
    storage.core.store_clock._base_ms += 10**9
    assert await storage.write_small(sent, provenance=came) == [None, None]
    key = EntryKey(EntryKind.ASSET_BLOB, "", b"k" * 32)
    await storage.put([Entry(key, b"v", "uri")], provenance=came)
    page = await storage.ledger.blobs(None, 10)
    assert {digest for digest, _ in sent} == set(page.digests[:2])
    assert page.digests[2] == held
    assert all(900 <= unused_s < 1000 for unused_s in page.unused_s[:2])
    assert (await storage.ledger.entries(None, 10)).unused_s[0] >= 900
    now_ms = storage.core.now_ms()
    for digest, _ in sent:
        assert row_of(storage, digest)[8] > now_ms - 60_000, "who sent it was promised it"


async def test_sending_again_what_is_held_moves_it_only_as_far_as_it_was_used(
    open_storage: Opener,
) -> None:
    storage = await open_storage(short(lease=3600))
    digest = await put(storage, b"held")
    storage.core.store_clock._base_ms += 10**9
    came = Provenance(Source.PEER, ("there",), "there", unused_s=900.0)
    await storage.write_small([(digest, b"held")], provenance=came)
    (unused_s,) = (await storage.ledger.blobs(None, 10)).unused_s
    assert 900 <= unused_s < 1000
    came = came._replace(unused_s=90_000.0)
    await storage.write_small([(digest, b"held")], provenance=came)
    (unused_s,) = (await storage.ledger.blobs(None, 10)).unused_s
    assert unused_s < 1000, "an older use took it back"
