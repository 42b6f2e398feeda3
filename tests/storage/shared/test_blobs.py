"""Blobs in the site's catalogue: who holds what, leases, and who wins."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.provenance import Provenance, Source
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.rows import BlobObject, Insertion, NewBlob
from tests.storage.shared.site import SiteDatabase, held, leading, store, store_object
from tests.support.polling import until

pytestmark = pytest.mark.servers

DATA = b"some bytes"
DIGEST = digest_of(DATA)
KEY = key_of(DIGEST)
PULLED = Provenance(Source.UPSTREAM, origin="hq")


async def test_what_one_node_stored_the_others_hold_with_its_bytes(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        assert await store(first, DATA) == [Insertion.STORED]
        assert await store(second, DATA) == [Insertion.HELD]
        found = await second.blobs.look_up(
            [KEY, key_of(digest_of(b"no"))], Use.CLIENT, with_bytes=True
        )
        assert list(found) == [KEY]
        assert (found[KEY].size_bytes, found[KEY].data, found[KEY].attempt) == (10, DATA, None)
        assert (await first.blobs.look_up([KEY], Use.CLIENT, with_bytes=False))[KEY].data is None


async def test_sizes_come_in_the_order_asked_for(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"1", b"22", b"")
        keys = [key_of(digest_of(each)) for each in (b"22", b"no", b"", b"1", b"22")]
        assert list(await node.blobs.find(keys, Use.CLIENT)) == [2, None, 0, 1, 2]
        assert await node.blobs.find([], Use.CLIENT) == []
        assert await node.blobs.size_of(key_of(digest_of(b"22"))) == 2
        assert await node.blobs.size_of(KEY) is None


@pytest.mark.parametrize("use", [Use.LEASE, Use.CLIENT])
async def test_present_is_said_once_the_lease_is_written(database: SiteDatabase, use: Use) -> None:
    async with database.node() as node:
        await store(node, DATA)
        database.age(DIGEST)
        assert await held(node, DATA, use=use) == [True]
        ((accessed, era, now_ms),) = database.sql("SELECT accessed, era, now_ms FROM blob, clock")
        assert accessed == now_ms
        assert (era > 0) == (use is Use.CLIENT)  # replication does not count as a use


async def test_a_peek_leases_nothing(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, DATA)
        database.age(DIGEST)
        assert await held(node, DATA, use=Use.PEEK) == [True]
        await node.blobs.look_up([KEY], Use.PEEK, with_bytes=True)
        assert database.sql("SELECT accessed FROM blob") == [(0,)]


async def test_a_fresh_lease_is_not_written_again(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, DATA)
        (before,) = database.sql("SELECT ctid, accessed FROM blob")
        database.pass_ms(node.settings.granularity_ms)
        await held(node, DATA, use=Use.LEASE)
        assert database.sql("SELECT ctid, accessed FROM blob") == [before]
        database.pass_ms(1)
        await held(node, DATA, use=Use.LEASE)
        assert database.sql("SELECT accessed FROM blob")[0][0] > before[1]


async def test_what_is_evicted_while_its_lease_is_renewed_is_missing(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, DATA, b"other")
        database.age(DIGEST, digest_of(b"other"))
        with database.transaction("DELETE FROM blob WHERE size = 10"):
            asking = asyncio.ensure_future(held(node, DATA, b"other", use=Use.CLIENT))
            await until(database.blocked, "the renewal waits for the eviction")
        assert await asking == [False, True]


@pytest.mark.parametrize("way", ["find", "insert", "accept_held", "look_up"])
async def test_each_use_renews_the_lease(database: SiteDatabase, way: str) -> None:
    async with database.node() as node:
        await store(node, DATA)
        database.age(DIGEST)
        if way == "find":
            assert await node.blobs.find([KEY], Use.CLIENT) == [10]
        elif way == "insert":
            await store(node, DATA)
        elif way == "accept_held":
            assert await node.blobs.accept_held([KEY], Provenance()) == [10]
        else:
            await node.blobs.look_up([KEY], Use.CLIENT, with_bytes=True)
        assert database.sql("SELECT accessed = now_ms, era > 0 FROM blob, clock") == [(True, True)]


async def test_who_loses_the_race_for_a_row_has_its_object_deleted_later(
    database: SiteDatabase,
) -> None:
    async with database.node() as first, database.node() as second:
        assert await store_object(first, DATA, b"attempt1") == Insertion.STORED
        assert await store_object(second, DATA, b"attempt2") == Insertion.HELD
        found = await second.blobs.look_up([KEY], Use.CLIENT, with_bytes=True)
        assert (found[KEY].attempt, found[KEY].parts, found[KEY].data) == (
            b"attempt1",
            bytes(32),
            None,
        )
        objects = [BlobObject(DIGEST, each) for each in (b"attempt1", b"attempt2", b"attempt3")]
        assert await first.blobs.objects_known(objects) == [True, True, False]
        assert (await first.work.gone_due(10)) == []
        assert database.sql("SELECT gone FROM site") == [(10,)]
        database.pass_ms(first.settings.lease_ms)
        assert await first.work.gone_due(10) == [BlobObject(DIGEST, b"attempt2")]
        await first.work.gone_done(await leading(first), objects)
        assert database.sql("SELECT gone FROM site") == [(0,)]
        assert await first.blobs.objects_known(objects) == [True, False, False]


async def test_a_batch_of_which_another_node_was_faster_with_one_keeps_the_others(
    database: SiteDatabase,
) -> None:
    """Both have found nothing held before either has the lock."""
    async with database.node() as first, database.node() as second:
        with database.transaction("SELECT FROM site FOR UPDATE"):
            one = asyncio.ensure_future(store(first, b"both", b"first"))
            await until(lambda: database.blocked() == 1, "the first waits for the lock")
            other = asyncio.ensure_future(store(second, b"both", b"second"))
            await until(lambda: database.blocked() == 2, "the second waits for the lock")
        assert await one == [Insertion.STORED, Insertion.STORED]
        assert await other == [Insertion.HELD, Insertion.STORED]
        assert await held(first, b"both", b"first", b"second") == [True] * 3
        assert database.sql("SELECT seq, total FROM log WHERE seq > 1") == [(2, 9), (3, 15)]
        assert database.sql("SELECT seq, blobs, bytes, logged FROM site") == [(3, 3, 15, 15)]
        assert database.sql("SELECT count(*) FROM small NATURAL JOIN blob") == [(3,)]


def sorted_batch() -> list[bytes]:
    """Return 100 blobs in the order of their keys: the second one is not looked up before."""
    return sorted((b"blob %d" % n for n in range(100)), key=lambda data: key_of(digest_of(data)))


async def test_a_batch_with_a_held_blob_that_is_noticed_late_keeps_the_others(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        blobs = sorted_batch()
        await store(node, blobs[1])
        outcomes = await store(node, *blobs)
        assert [outcomes.pop(1), set(outcomes)] == [Insertion.HELD, {Insertion.STORED}]
        assert all(await held(node, *blobs))
        assert database.sql("SELECT seq, blobs, logged = bytes FROM site") == [(100, 100, True)]
        assert database.sql("SELECT count(*) FROM small NATURAL JOIN blob NATURAL JOIN log") == [
            (100,)
        ]


async def test_a_blob_that_is_just_being_evicted_keeps_nobody_else_from_storing(
    database: SiteDatabase,
) -> None:
    """Who evicts it waits for the row of the site, so that row must not be held meanwhile."""
    async with database.node() as first, database.node() as second:
        blobs = sorted_batch()
        await store(first, blobs[1])
        database.age(digest_of(blobs[1]))
        with database.transaction("DELETE FROM blob"):
            storing = asyncio.ensure_future(store(first, *blobs))
            await until(lambda: database.blocked() == 1, "the batch waits for the eviction")
            assert await store(second, b"other") == [Insertion.STORED]
            assert not storing.done()
        assert set(await storing) == {Insertion.STORED}
        assert all(await held(second, *blobs))


async def test_a_purged_blob_in_a_batch_of_an_upstream_is_not_stored(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        blobs = sorted_batch()
        await node.purges.purge([(digest_of(blobs[1]), "")], "alice")
        outcomes = await store(node, *blobs, provenance=PULLED)
        assert [outcomes.pop(1), set(outcomes)] == [Insertion.HELD, {Insertion.STORED}]
        assert await held(node, *blobs[:2]) == [True, False]


async def test_a_statement_that_is_run_again_finds_its_own_row(database: SiteDatabase) -> None:
    """As after a connection that was lost on the way back: the object must not be deleted."""
    async with database.node() as node:
        for _ in range(2):
            assert await store_object(node, DATA, b"attempt1") == Insertion.STORED
        assert database.sql("SELECT count(*) FROM gone") == [(0,)]


async def test_the_quota_refuses_what_has_no_room_and_keeps_the_rest(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        node.set_quota(2 * (100 + 256))
        blobs = [bytes([n]) * 100 for n in range(3)]
        outcomes = await store(node, *blobs)
        assert sorted(outcomes) == [Insertion.STORED, Insertion.STORED, Insertion.FULL]
        assert sum(await held(node, *blobs)) == 2
        assert await store_object(node, b"x" * 1000, b"attempt1") == Insertion.FULL
        assert database.sql("SELECT count(*) FROM gone") == [(1,)]  # its object must go
        node.set_quota(None)
        assert sorted(await store(node, *blobs)) == [
            Insertion.HELD,
            Insertion.HELD,
            Insertion.STORED,
        ]


async def test_totals_are_exact(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"123", b"45")
        await store_object(node, DATA, b"attempt1")
        keys = [key_of(digest_of(b"45")), KEY]
        found = await node.blobs.look_up(keys, Use.PEEK, with_bytes=False)
        await node.blobs.set_aside([(key, found[key].seq) for key in keys], "damaged")
        await node.watch.refresh()
        assert node.watch.totals() == (3, 1, 0, 10)


async def test_quarantined_blobs_are_out_of_sight_for_all_nodes(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        await store(first, DATA, b"other")
        before = second.watch.presence()
        found = await first.blobs.look_up([KEY], Use.PEEK, with_bytes=False)
        rows = [(KEY, found[KEY].seq)]
        assert await first.blobs.set_aside(rows, "wrong bytes") == 1
        assert await first.blobs.set_aside(rows, "wrong bytes") == 0
        await second.watch.refresh()
        assert second.watch.presence() != before
        assert await held(second, DATA, b"other") == [False, True]
        assert await second.blobs.is_damaged(KEY)
        assert database.sql("SELECT count(*) FROM small") == [(1,)]
        await store(second, DATA)
        assert not await first.blobs.is_damaged(KEY)


async def test_a_blob_that_was_uploaded_again_is_not_taken_for_the_damaged_one(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, DATA)
        await node.blobs.set_aside([(KEY, 1)], "found by the first")
        await store(node, DATA)
        assert await node.blobs.set_aside([(KEY, 1)], "found late by a second") == 0
        assert await held(node, DATA) == [True]


async def test_what_an_upstream_gave_is_accepted_anew_without_its_bytes(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, DATA, provenance=PULLED)
        await store_object(node, b"large", b"attempt1", PULLED)
        keys = [KEY, key_of(digest_of(b"large")), key_of(digest_of(b"no"))]
        assert await node.blobs.accept_held(keys, PULLED) == [10, 5, None]
        assert (await node.log.read(2, 10)).rows == []
        assert await node.blobs.accept_held(keys, Provenance()) == [10, 5, None]
        rows = (await node.log.read(2, 10)).rows
        assert {row.digest for row in rows} == {DIGEST, digest_of(b"large")}
        found = await node.blobs.look_up(keys, Use.CLIENT, with_bytes=True)
        assert found[KEY].data == DATA


async def test_a_walk_goes_through_all_blobs_in_the_order_of_keys(database: SiteDatabase) -> None:
    async with database.node() as node:
        blobs = [b"%d" % n for n in range(25)]
        await store(node, *blobs)
        found: list[bytes] = []
        while page := await node.blobs.walk(found[-1] if found else b"", 10):
            found += [key for key, _ in page]
        assert found == sorted(key_of(digest_of(each)) for each in blobs)


async def test_many_at_once_over_two_nodes_are_stored_once_each(database: SiteDatabase) -> None:
    blobs = [b"blob %d" % n for n in range(60)]
    async with database.node() as first, database.node() as second:
        outcomes = await asyncio.gather(
            *(store(node, *blobs[n : n + 20]) for n in range(0, 60, 5) for node in (first, second))
        )
        stored = [each for several in outcomes for each in several].count(Insertion.STORED)
        assert stored == len(blobs)
        assert database.sql("SELECT seq, blobs, (SELECT count(*) FROM log) FROM site") == [
            (60, 60, 60)
        ]


async def test_a_name_with_another_size_is_not_mistaken(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, DATA)
        wrong = Digest(DIGEST.hash, 11)
        assert list(await node.blobs.find([key_of(wrong)], Use.CLIENT)) == [10]


async def test_one_insertion_may_name_a_blob_twice(database: SiteDatabase) -> None:
    async with database.node() as node:
        new = [NewBlob(DIGEST, DATA), NewBlob(DIGEST, DATA)]
        assert await node.blobs.insert(new) == [Insertion.STORED, Insertion.STORED]
        assert node.watch.head() == 1
