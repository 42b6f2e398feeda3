"""Index entries of a site: what several nodes write at once, and what the quota refuses.

The suite of the replication log has what stamps decide.
"""

from __future__ import annotations

import asyncio

import pytest

from federation.core.errors import InvalidRequest, StorageFull
from federation.core.index import LIKE_MAX, Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.core.uses import Use, counted_as
from tests.storage.shared.site import SiteDatabase

pytestmark = pytest.mark.servers

FROM_PEER = Provenance(Source.PEER, via=("tokyo",))


def named(name: bytes, value: bytes = b"value", **more: object) -> Entry:
    key = EntryKey(EntryKind.ACTION_RESULT, "main", name)
    return Entry(key, value, "label", **more)  # type: ignore[arg-type]


async def test_an_entry_is_as_it_was_put_whatever_its_texts_are(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        key = EntryKey(EntryKind.ASSET_BLOB, "ä\0b", b"\0\xff")
        entry = Entry(key, b"\0value", "urn:\0\N{SNOWMAN}", expires_at_s=2e9)
        await first.index.put([entry])
        (found,) = await second.index.get([key])
        assert found is not None
        assert (found.value, found.label, found.expires_at_s) == (b"\0value", entry.label, 2e9)
        (head,) = await second.index.heads([key])
        assert head is not None
        assert (head.label, head.value_bytes, head.expires_at_s) == (entry.label, 6, 2e9)


async def test_entries_that_begin_alike_are_found_newest_first(database: SiteDatabase) -> None:
    async with database.node() as node:
        entries = [named(b"name%d" % n) for n in range(3)]
        for entry in entries:
            await node.index.put([entry])
        await node.index.put([named(b"other"), named(b"nam")])
        found = await node.index.get_like([named(b"name").key])
        assert [entry.key for entry in found] == [entry.key for entry in entries[::-1]]
        await node.index.put([named(b"many%d" % n) for n in range(LIKE_MAX + 5)])
        assert len(await node.index.get_like([named(b"many").key])) == LIKE_MAX
        assert await node.index.get_like([]) == []


async def test_of_many_writers_exactly_one_puts_over_what_it_saw(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        await first.index.put([named(b"n", b"first")])
        (held,) = await second.index.get([named(b"n").key])
        tried = await asyncio.gather(
            *(
                node.index.put_over(named(b"n", b"%d" % n), held)
                for n, node in enumerate([first, second] * 5)
            )
        )
        assert tried.count(True) == 1
        (found,) = await first.index.get([named(b"n").key])
        assert found is not None
        assert found.value == b"%d" % tried.index(True)
        assert not await first.index.put_over(named(b"n"), None)
        assert await first.index.put_over(named(b"absent"), None)


async def test_writers_of_one_name_on_two_nodes_all_get_their_stamp_and_row(
    database: SiteDatabase,
) -> None:
    async with database.node() as first, database.node() as second:
        await asyncio.gather(
            *(
                node.index.put([named(b"n", b"%d" % n)])
                for n, node in enumerate([first, second] * 6)
            )
        )
        rows, is_whole = await first.log.read(0, 100)
        assert ([row.seq for row in rows], is_whole) == (list(range(1, 13)), True)
        ((seq, ticks),) = database.sql("SELECT e.seq, s.ticks FROM entry e, site s")
        assert seq == 12
        (found,) = await first.index.get([named(b"n").key])
        assert found is not None
        assert found.stamp == Stamp(ticks, first.site_id)


async def test_the_last_of_a_key_in_one_batch_wins(database: SiteDatabase) -> None:
    async with database.node() as node:
        await node.index.put([named(b"n", b"1"), named(b"n", b"2"), named(b"m"), named(b"n", b"3")])
        found = await node.index.get([named(b"n").key, named(b"m").key])
        assert [entry and entry.value for entry in found] == [b"3", b"value"]
        late, early = Stamp(2 << 16, "b"), Stamp(1 << 16, "a")
        both = [named(b"p", b"late", stamp=late), named(b"p", b"early", stamp=early)]
        await node.index.put(both, provenance=FROM_PEER)
        (kept,) = await node.index.get([named(b"p").key])
        assert kept is not None
        assert (kept.value, kept.stamp) == (b"late", late)


async def test_a_stamp_from_the_far_future_is_refused_with_all_of_its_batch(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        future = named(b"future", stamp=Stamp(2**62, "tokyo"))
        with pytest.raises(InvalidRequest, match="clock-drift"):
            await node.index.put([named(b"n"), future], provenance=FROM_PEER)
        assert await node.index.get([named(b"n").key]) == [None]


async def test_the_quota_refuses_a_batch_whole(database: SiteDatabase) -> None:
    async with database.node() as node:
        node.set_quota(1000)
        await node.index.put([named(b"n", b"x" * 500)])
        with pytest.raises(StorageFull):
            await node.index.put([named(b"small"), named(b"large", b"x" * 1000)])
        assert await node.index.get([named(b"small").key]) == [None]
        await node.index.put([named(b"n", b"y" * 400)])  # what grows nothing is taken
        assert database.sql("SELECT entries, bytes FROM site") == [(1, 405)]


async def test_a_read_by_a_client_counts_as_a_use_and_replication_s_does_not(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await node.index.put([named(b"n")])
        database.sql("UPDATE entry SET accessed = 0, era = 0")
        with counted_as(Use.PEEK):
            await node.index.get([named(b"n").key])
        assert database.sql("SELECT accessed, era FROM entry") == [(0, 0)]
        await node.index.get([named(b"n").key])
        assert database.sql("SELECT accessed = now_ms, era > 0 FROM entry, clock") == [(True, True)]
