"""What storages that keep records of purges must do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound, InvalidRequest
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.purges import Purge, Purgeable, PurgeOutcome
from federation.core.replication_log import PeerRecord
from federation.wire.holdings import name_of
from tests.contracts.replication_log.sites import SITES, STORED_ON_SERVERS, Stored, push, put

FROM_PEER = Provenance(Source.PEER, via=("first",))
PULLED = Provenance(Source.UPSTREAM, origin="hq")
SMALL, LARGE = b"a small secret", b"a large secret" * 3000


MAKERS = {**SITES, **STORED_ON_SERVERS}
_ON_SERVERS = [pytest.param(name, marks=pytest.mark.servers) for name in STORED_ON_SERVERS]


@pytest.fixture(params=[*SITES, *_ON_SERVERS])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Stored]:
    async with MAKERS[request.param](request) as made:
        yield made


def named(name: str, value: bytes = b"value", stamp: Stamp | None = None) -> Entry:
    key = EntryKey(EntryKind.ASSET_BLOB, "main", name.encode())
    entry = Entry(key, value, f"urn:{name}")
    return entry if stamp is None else entry._replace(stamp=stamp)


async def purge(site: Stored, *things: Purgeable) -> list[Purge]:
    """Purge, and return the records in the order of the things."""
    before = (await site.ledger.purges.page(0, 1000)).last
    await site.ledger.purges.purge([(thing, "") for thing in things], "alice")
    found = {each.thing: each for each in (await site.ledger.purges.page(before, 1000)).purges}
    return [found[thing] for thing in things]


async def is_held(site: Stored, data: bytes) -> bool:
    """Whether a blob can be read, which every way of asking must agree on."""
    digest = digest_of(data)
    missing = await site.store.find_missing([digest])
    small = await site.store.read_small([digest])
    try:
        async with site.store.open_read(digest) as chunks:
            read = b"".join([chunk async for chunk in chunks])
    except BlobNotFound:
        assert (missing, small) == ({digest}, [None])
        return False
    assert (missing, small, read) == (set(), [data], data)
    return True


async def value_of(site: Stored, name: str) -> bytes | None:
    (entry,) = await site.index.get([named(name).key])
    return None if entry is None else entry.value


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_a_purged_blob_is_gone_at_once_and_a_clients_push_brings_it_back(
    site: Stored, data: bytes
) -> None:
    digest = await push(site, data)
    assert await is_held(site, data)
    (outcome,) = await site.ledger.purges.purge([(digest, "")], "alice")
    assert outcome == PurgeOutcome(digest, "", len(data), True)
    assert not await is_held(site, data)
    assert await site.ledger.held() == (0, 0)
    assert await site.ledger.purges.blobs_among([digest, digest_of(b"x")]) == {digest}
    await push(site, data)
    assert await is_held(site, data)
    assert await site.ledger.purges.blobs_among([digest]) == set()


@pytest.mark.parametrize("data", [SMALL, LARGE])
@pytest.mark.parametrize("origin", [FROM_PEER, PULLED])
async def test_neither_peers_nor_upstreams_bring_a_purged_blob_back(
    site: Stored, data: bytes, origin: Provenance
) -> None:
    digest = await push(site, data)
    await purge(site, digest)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    assert await site.store.write_small([(digest, data)], provenance=origin) == [None]
    assert not await site.store.write(digest, chunks(), provenance=origin)
    await site.store.write_one(digest, data, provenance=origin)
    ingest = site.store.begin(digest, provenance=origin)
    await ingest.append(data)
    assert not await ingest.commit()
    assert not await is_held(site, data)
    assert await site.ledger.purges.blobs_among([digest]) == {digest}
    other = await push(site, b"another", origin)
    assert await site.store.find_missing([other, digest]) == {digest}


async def test_a_push_of_a_purged_blob_with_wrong_bytes_allows_nothing(site: Stored) -> None:
    digest = await push(site, SMALL)
    (before,) = await purge(site, digest)
    (refused,) = await site.store.write_small([(digest, SMALL[::-1])])
    assert refused is not None
    assert (await site.ledger.purges.page(0, 10)).purges == [before]


async def test_a_push_of_a_purged_blob_makes_a_later_record_for_peers(site: Stored) -> None:
    digest = await push(site, SMALL)
    (purged,) = await purge(site, digest)
    assert (purged.is_allowed, purged.by) == (False, "alice")
    page = await site.ledger.purges.page(0, 10)
    await push(site, SMALL)
    later = await site.ledger.purges.page(page.last, 10)
    (again,) = later.purges
    assert again.is_allowed
    assert again.stamp > purged.stamp
    assert (await site.ledger.purges.page(later.last, 10)) == ([], later.last)


async def test_a_purged_entry_is_gone_and_a_clients_value_wins_over_the_record(
    site: Stored,
) -> None:
    entry = named("e")
    await put(site, entry)
    (outcome,) = await site.ledger.purges.purge([(entry.key, entry.label)], "alice")
    assert outcome == PurgeOutcome(entry.key, "urn:e", len(b"value") + len("urn:e"), True)
    assert await value_of(site, "e") is None
    assert await site.index.get_like([entry.key]) == []
    assert await site.ledger.heads_at([entry.key]) == [None]
    assert await site.ledger.purges.entries_among([entry.key]) == {entry.key}
    (record,) = (await site.ledger.purges.page(0, 10)).purges
    await put(site, entry)
    assert await value_of(site, "e") == b"value"
    assert await site.ledger.purges.entries_among([entry.key]) == set()
    ((_, held),) = [each for each in await site.ledger.entries_at([entry.key]) if each]
    assert held.stamp > record.stamp


async def test_an_older_value_of_a_purged_entry_does_not_come_back(site: Stored) -> None:
    await put(site, named("e"))
    ((_, before),) = [each for each in await site.ledger.entries_at([named("e").key]) if each]
    (record,) = await purge(site, before.key)
    await put(site, before, provenance=FROM_PEER)
    await put(site, named("e", b"pulled"), provenance=PULLED)
    same = before._replace(stamp=record.stamp)
    await put(site, same, provenance=FROM_PEER)
    assert await value_of(site, "e") is None
    later = named("e", b"later", Stamp(record.stamp.ticks + 1, "there"))
    await put(site, later, provenance=FROM_PEER)
    assert await value_of(site, "e") == b"later"
    await put(site, named("e", b"pulled"), provenance=PULLED)
    assert await value_of(site, "e") == b"later"


async def test_what_was_never_here_can_be_purged(site: Stored) -> None:
    digest, key = digest_of(SMALL), named("e").key
    outcomes = await site.ledger.purges.purge([(digest, ""), (key, "urn:e")], "alice")
    assert [(each.was_here, each.size_bytes) for each in outcomes] == [(False, 0)] * 2
    await push(site, SMALL, FROM_PEER)
    await put(site, named("e"), provenance=PULLED)
    assert not await is_held(site, SMALL)
    assert await value_of(site, "e") is None


async def test_the_empty_blob_cannot_be_purged(site: Stored) -> None:
    with pytest.raises(InvalidRequest):
        await site.ledger.purges.purge([(digest_of(b""), "")], "alice")
    assert await site.store.find_missing([digest_of(b"")]) == set()


async def test_the_later_record_of_a_name_wins_in_whatever_order_they_come(site: Stored) -> None:
    digest = await push(site, SMALL)
    (first,) = await purge(site, digest)
    ticks = first.stamp.ticks
    allowed = first._replace(stamp=Stamp(ticks + 2, "there"), is_allowed=True)
    purged = first._replace(stamp=Stamp(ticks + 1, "there"))
    assert await site.ledger.purges.apply([allowed]) == 1
    assert await site.ledger.purges.apply([purged, first, allowed]) == 0
    assert await site.ledger.purges.blobs_among([digest]) == set()
    await push(site, SMALL, FROM_PEER)
    assert await is_held(site, SMALL)
    again = first._replace(stamp=Stamp(ticks + 3, "elsewhere"))
    assert await site.ledger.purges.apply([again]) == 1
    assert not await is_held(site, SMALL)
    (own,) = await purge(site, digest)
    assert own.stamp > again.stamp


async def test_a_record_removes_older_entries_and_leaves_later_ones(site: Stored) -> None:
    await put(site, named("old"), named("new"))
    stamps = {}
    for name in ("old", "new"):
        ((_, held),) = [e for e in await site.ledger.entries_at([named(name).key]) if e]
        stamps[name] = held.stamp
    older = Stamp(stamps["new"].ticks - 1, "there")
    later = Stamp(stamps["old"].ticks + 1, "there")
    records = [Purge(named("old").key, later), Purge(named("new").key, older)]
    assert await site.ledger.purges.apply(records) == 2
    assert [await value_of(site, name) for name in ("old", "new")] == [None, b"value"]
    assert await site.ledger.purges.entries_among([each.thing for each in records]) == {  # type: ignore[misc]
        named("old").key
    }


async def test_a_record_removes_what_an_upstream_gave(site: Stored) -> None:
    await put(site, named("e"), provenance=PULLED)
    await site.ledger.purges.apply([Purge(named("e").key, Stamp(5 << 16, "there"))])
    assert await value_of(site, "e") is None


async def test_records_have_rising_numbers_and_a_changed_one_gets_the_next(site: Stored) -> None:
    things: list[Digest] = [digest_of(b"%d" % at) for at in range(5)]
    await purge(site, *things)
    first = await site.ledger.purges.page(0, 3)
    rest = await site.ledger.purges.page(first.last, 10)
    assert [each.thing for each in (*first.purges, *rest.purges)] == things
    await purge(site, things[1])
    (moved,) = (await site.ledger.purges.page(rest.last, 10)).purges
    assert moved.thing == things[1]
    everything = await site.ledger.purges.page(0, 10)
    assert [each.thing for each in everything.purges] == [*things[:1], *things[2:], things[1]]


async def test_who_compares_is_not_told_to_send_purged_blobs(site: Stored) -> None:
    purged = await push(site, SMALL)
    await purge(site, purged)
    asked = [name_of(purged), name_of(digest_of(b"never"))]
    assert await site.ledger.held_like(asked) == {name_of(purged)}
    await push(site, SMALL, FROM_CLIENT)
    assert await site.ledger.held_like(asked) == {name_of(purged)}


async def test_how_far_a_peer_was_told_is_kept_with_its_record(site: Stored) -> None:
    record = PeerRecord("tokyo", purges=7)
    await site.ledger.save([record])
    assert await site.ledger.peers() == [record]
    await site.ledger.save([record._replace(purges=9)])
    assert await site.ledger.peers() == [record._replace(purges=9)]
