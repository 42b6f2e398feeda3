"""Eviction in one step: what is leased, pinned or under another lead stays."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.digest import digest_of
from federation.core.errors import LeadLost
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import PeerRecord, PeerState
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.rows import BlobObject, Lead, SiteRole
from tests.storage.shared.site import SiteDatabase, held, leading, store, store_object
from tests.support.polling import until

pytestmark = pytest.mark.servers

ALL = 2**40
PULLED = Provenance(Source.UPSTREAM, origin="hq")


async def test_leased_objects_stay_and_the_others_go(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"old", b"new")
        database.age(digest_of(b"old"))
        evicted = await node.work.evict(await leading(node), ALL)
        assert evicted == (1, 0, 3 + 256, False, False)
        assert await held(node, b"old", b"new") == [False, True]
        assert database.sql("SELECT count(*) FROM small") == [(1,)]
        await node.watch.refresh()
        assert node.watch.totals() == (3, 1, 0, 0)


async def test_a_lease_protects_for_its_whole_time_however_late_it_was_said(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, b"1")
        lead = Lead(SiteRole.UPKEEP, 7)  # of a node that is not there: the clock stands still
        database.sql("UPDATE lead SET node = 'none', term = 7 WHERE role = 'upkeep'")
        database.pass_ms(node.settings.lease_ms + 2 * node.settings.granularity_ms)
        assert (await node.work.evict(lead, ALL)).blobs == 0
        database.pass_ms(1)
        assert (await node.work.evict(lead, ALL)).blobs == 1


async def test_only_as_much_as_is_wanted_goes_least_recently_used_first(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        blobs = [bytes([n]) * 744 for n in range(5)]  # 1000 bytes each, with its rows
        for hour, data in enumerate(blobs):
            await store(node, data)
            database.age(digest_of(data))
            database.sql(
                f"UPDATE blob SET era = {5 - hour} WHERE key = '\\x{key_of(digest_of(data)).hex()}'"
            )
        evicted = await node.work.evict(await leading(node), 1500)
        assert (evicted.blobs, evicted.freed_bytes) == (2, 2000)
        assert await held(node, *blobs) == [True, True, True, False, False]


async def test_what_only_an_upstream_gave_goes_first(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"pushed")
        await store(node, b"pulled", provenance=PULLED)
        database.age(digest_of(b"pushed"), digest_of(b"pulled"))
        await node.work.evict(await leading(node), 1)
        assert await held(node, b"pushed", b"pulled") == [True, False]


async def test_entries_go_too(database: SiteDatabase) -> None:
    async with database.node() as node:
        key = EntryKey(EntryKind.ACTION_RESULT, "main", b"name")
        await node.index.put([Entry(key, b"value", "label")])
        database.sql("UPDATE entry SET accessed = 0, era = 0")
        evicted = await node.work.evict(await leading(node), 1)
        assert (evicted.entries, evicted.freed_bytes) == (1, 10 + 240)
        assert await node.index.get([key]) == [None]
        await node.watch.refresh()
        assert node.watch.totals() == (0, 0, 0, 0)


async def test_what_a_peer_waits_for_is_pinned_until_the_peer_is_given_up(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, b"1", b"2")
        await store(node, b"pulled", provenance=PULLED)
        database.age(*map(digest_of, (b"1", b"2", b"pulled")))
        record = PeerRecord("tokyo", cursor=1, state=PeerState.FOLLOWING, reason="")
        await node.peers.save(None, [record])
        lead = await leading(node)
        evicted = await node.work.evict(lead, ALL)
        assert (evicted.blobs, evicted.is_pinned) == (2, True)  # pulled ones are not for this peer
        assert await node.work.give_up_one(lead, "no room") == "tokyo/always"
        assert await node.work.give_up_one(lead, "no room") is None
        assert (await node.peers.records())[0].reason == "no room"
        assert (await node.work.evict(lead, ALL))[:5] == (1, 0, 1 + 256, False, False)


async def test_objects_of_evicted_blobs_are_deleted_a_lease_later(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store_object(node, b"large", b"attempt1")
        database.age(digest_of(b"large"))
        lead = await leading(node)
        assert (await node.work.evict(lead, ALL)).freed_bytes == 5 + 256
        await node.watch.refresh()
        assert node.watch.totals() == (0, 0, 0, 5)
        assert await node.work.gone_due(10) == []
        database.pass_ms(node.settings.lease_ms)
        assert await node.work.gone_due(10) == [BlobObject(digest_of(b"large"), b"attempt1")]


async def test_after_a_crash_nothing_is_evicted_for_a_lease(database: SiteDatabase) -> None:
    """The crash may have lost leases that were given."""
    async with database.node() as node:
        await store(node, b"1")
        database.age(digest_of(b"1"))
        database.server.kill()
        database.server.start()
        lead = await leading(node)
        assert (await node.work.evict(lead, ALL))[:4] == (0, 0, 0, True)
        database.pass_ms(node.settings.evictable_ms)
        evicted = await node.work.evict(lead, ALL)
        assert (evicted.blobs, evicted.is_paused) == (1, False)


async def test_an_overtaken_lead_changes_nothing(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"1")
        database.age(digest_of(b"1"))
        lead = await leading(node)
        database.sql("UPDATE lead SET node = 'other', term = term + 1 WHERE role = 'upkeep'")
        gone = [BlobObject(digest_of(b"1"), b"attempt1")]
        for work in (
            node.work.evict(lead, ALL),
            node.work.gone_done(lead, gone),
            node.work.trim_log(lead, 0, 0, "long"),
            node.work.give_up_one(lead, "no room"),
            node.work.begin_epoch(lead),
        ):
            with pytest.raises(LeadLost):
                await work
        assert await held(node, b"1") == [True]
        await until(
            lambda: node.leads.lead(SiteRole.UPKEEP) != lead, "the node knows that it was overtaken"
        )


async def test_nobody_is_told_present_of_what_is_evicted_at_the_same_time(
    database: SiteDatabase,
) -> None:
    """Each answer is checked against what the eviction, which runs all the time, has left."""
    blobs = [b"%d" % n for n in range(200)]
    async with database.node() as node, database.node() as other:
        await store(node, *blobs)
        database.sql("UPDATE blob SET accessed = 0, era = 0")
        lead = await leading(node)

        async def evict() -> None:
            for _ in range(40):
                await node.work.evict(lead, 5 * 257)

        async def ask(first: int) -> list[bytes]:
            some = blobs[first::4]
            answers = await held(other, *some, use=Use.CLIENT)
            return [data for data, present in zip(some, answers, strict=True) if present]

        await node.work.evict(lead, 5 * 257)
        evicting = asyncio.ensure_future(evict())
        said = [data for n in range(4) for data in await ask(n)]
        await evicting
        assert all(await held(node, *said))
        assert len(said) < len(blobs)


async def test_a_trimmed_log_marks_who_needed_its_rows(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, *(b"%d" % n for n in range(6)))
        late = PeerRecord("late", cursor=1, state=PeerState.FOLLOWING, reason="")
        await node.peers.save(None, [late, late._replace(name="there", cursor=5)])
        lead = await leading(node)
        assert await node.work.trim_log(lead, 100, 100, "long") == (0, True, ())
        assert await node.work.trim_log(lead, 2, 2, "long") == (4, True, ["late/always"])
        assert {r.name: r.reason for r in await node.peers.records()} == {
            "late": "long",
            "there": "",
        }


async def test_a_new_epoch_has_all_peers_compare(database: SiteDatabase) -> None:
    async with database.node() as node:
        record = PeerRecord("tokyo", state=PeerState.FOLLOWING, reason="")
        await node.peers.save(None, [record])
        before = node.watch.log_epoch
        epoch = await node.work.begin_epoch(await leading(node))
        await node.watch.refresh()
        assert node.watch.log_epoch == epoch != before
        assert (await node.peers.records())[0].state is PeerState.NEEDS_RESYNC
