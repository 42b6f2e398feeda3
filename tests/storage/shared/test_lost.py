"""Lost blobs of a site: what is set aside is due at once, and back only when it is held again."""

from __future__ import annotations

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import LeadLost
from federation.core.lost_blobs import Attempt
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue import blobs
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from tests.storage.shared.site import SiteDatabase, store
from tests.support.polling import until

pytestmark = pytest.mark.servers

NOW_S = 1_800_000_000.0
PULLED = Provenance(Source.UPSTREAM, origin="hub")
FROM_TOKYO = Provenance(Source.UPSTREAM, ("tokyo-id",), "tokyo")


async def lose(node: SiteCatalogue, data: bytes, came: Provenance = FROM_CLIENT) -> Digest:
    await store(node, data, provenance=came)
    key = key_of(digest_of(data))
    found = await node.blobs.look_up([key], Use.PEEK, with_bytes=False)
    assert await node.blobs.set_aside([(key, found[key].seq)], "wrong bytes") == 1
    return digest_of(data)


async def due(node: SiteCatalogue, now_s: float = NOW_S) -> set[Digest]:
    return {each.digest for each in (await node.lost.due(now_s, 100)).due}


async def healing(node: SiteCatalogue) -> None:
    await until(node.lost.role.try_to_lead, "the node leads")


async def test_what_was_set_aside_is_due_at_once_at_every_node(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        assert await second.lost.due(NOW_S, 100) == ([], 0)
        digest = await lose(first, b"1", PULLED)
        (found,) = (await second.lost.due(NOW_S, 100)).due
        assert (found.digest, found.source, found.tries) == (digest, Source.UPSTREAM, 0)


async def test_a_failed_attempt_puts_a_blob_off_and_counts(database: SiteDatabase) -> None:
    async with database.node() as node:
        await healing(node)
        one, other = [await lose(node, data) for data in (b"1", b"2")]
        await node.lost.put_off([Attempt(one, 2 * NOW_S, "hub: down")])
        assert await due(node) == {other}
        assert await due(node, 2 * NOW_S) == {one, other}
        assert {each.tries for each in (await node.lost.due(2 * NOW_S, 100)).due} == {0, 1}
        assert await due(node, 1.0) == {one, other}  # a clock that was set back
        await node.lost.put_off([Attempt(one, None, "hub: down")])
        assert await node.lost.due(2 * NOW_S, 0) == ([], 1)


async def test_only_what_is_held_again_is_noted_as_back(database: SiteDatabase) -> None:
    async with database.node() as node:
        await healing(node)
        digest = await lose(node, b"1")
        assert await node.lost.note_back([digest]) == {}
        assert await due(node) == {digest}
        await store(node, b"1", provenance=PULLED)
        assert (await node.lost.due(NOW_S, 100)).lost == 0
        assert await node.lost.note_back([digest]) == {digest: "hub"}
        assert await due(node) == set()
        assert await node.lost.note_back([digest]) == {}
        assert await lose(node, b"1") == digest  # again
        assert await due(node) == {digest}


async def test_a_pushed_blob_stays_pushed_and_knows_who_gave_it_back(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await healing(node)
        digest = await lose(node, b"1")
        pulled = await lose(node, b"2", PULLED)
        await store(node, b"1", provenance=FROM_TOKYO)
        await store(node, b"2", provenance=FROM_TOKYO)
        assert await node.lost.note_back([digest, pulled]) == {digest: "tokyo", pulled: "tokyo"}
        rows, _ = await node.log.read(4, 10)
        assert [(row.digest, row.source, row.via) for row in rows] == [
            (digest, Source.CLIENT, ("tokyo-id",))
        ]


async def test_the_record_is_bounded_and_what_is_back_goes_first(
    database: SiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "KEPT_MAX", 2)
    async with database.node() as node:
        await healing(node)
        first, second = [await lose(node, data) for data in (b"1", b"2")]
        await store(node, b"2")
        assert await node.lost.note_back([second]) == {second: ""}
        third = await lose(node, b"3")
        assert await due(node) == {first, third}
        assert database.sql("SELECT count(*) FROM lost") == [(2,)]


async def test_who_was_overtaken_records_nothing(database: SiteDatabase) -> None:
    async with database.node() as node:
        digest = await lose(node, b"1")
        with pytest.raises(LeadLost):
            await node.lost.put_off([Attempt(digest, None, "")])
        await healing(node)
        database.sql("UPDATE lead SET term = term + 1, node = 'other' WHERE role = 'healing'")
        with pytest.raises(LeadLost):
            await node.lost.put_off([Attempt(digest, None, "")])
        with pytest.raises(LeadLost):
            await node.lost.note_back([digest])
        assert await due(node) == {digest}
