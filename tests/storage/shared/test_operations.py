"""What commands do to a site, beside a node that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.config.storage import StorageConfig
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import BlobDamaged, SourceUnavailable, StorageRefused
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import Lane, Parked, PeerRecord, PeerState
from federation.storage.shared.admin.joining import SitePlace
from federation.storage.shared.admin.operations import SiteOperations
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.catalogue.settings import CatalogueSettings
from tests.storage.shared.site import SiteDatabase, held, leading, store, store_object
from tests.support.polling import until

pytestmark = pytest.mark.servers

GOOD, WRONG, AWAY = b"good    ", b"wrong   ", b"away    "


class Bucket:
    """Has the objects that tests store by attempt: some are wrong, some do not answer."""

    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        self._blobs = blobs

    async def parts(self, digest: Digest, at: BlobAt) -> AsyncIterator[bytes]:
        if at.attempt == WRONG:
            raise BlobDamaged(digest, "wrong bytes")
        if at.attempt == AWAY:
            raise SourceUnavailable("bucket", "away")
        yield self._blobs[digest]

    async def get_marker(self) -> bytes | None:
        return None

    async def put_marker(self, data: bytes) -> None:
        assert b'"checking": true' in data


def operations(
    database: SiteDatabase, tmp_path: Path, *objects: bytes, quota: int = 10**6
) -> SiteOperations:
    @asynccontextmanager
    async def open_objects() -> AsyncIterator[Bucket]:
        yield Bucket({digest_of(data): data for data in objects})

    settings = StorageConfig(quota=quota)
    catalogue = CatalogueSettings(database.url, settings.lease)
    return SiteOperations(SitePlace(tmp_path, catalogue, settings, open_objects))


async def test_the_summary_says_what_the_site_holds(database: SiteDatabase, tmp_path: Path) -> None:
    known = operations(database, tmp_path)
    with pytest.raises(StorageRefused, match="no node has served it"):
        await asyncio.to_thread(known.summary)
    async with database.node() as node:
        await store(node, b"123")
        await node.blobs.set_aside([(b"\x01" + digest_of(b"123").hash, 1)], "wrong bytes")
        await store(node, b"12")
        await leading(node)
        facts = await asyncio.to_thread(known.summary)
        assert facts["engine"] == "shared"
        assert facts["node-id"] == node.site_id
        assert (facts["bytes"], facts["blobs"], facts["entries"]) == (2, 1, 0)
        assert (facts["held-bytes"], facts["quota-bytes"]) == (2 + 256, 10**6)
        assert facts["change-log"] == {"last": 2, "rows": 2}
        assert facts["quarantine"]["blobs"] == facts["healing"]["lost"] == 1
        assert facts["leads"]["upkeep"].endswith("term 1")
        assert facts["leads"]["replication"] is None


async def test_the_offline_switch_reaches_every_node(
    database: SiteDatabase, tmp_path: Path
) -> None:
    known = operations(database, tmp_path)
    async with database.node() as node:
        seen: list[bool] = []
        node.watch.watch(seen.append)
        await asyncio.to_thread(lambda: known.turn_offline(on=True))
        assert await asyncio.to_thread(known.offline_since_s) is not None
        await until(lambda: seen == [False, True], "the node heard of it")
        await asyncio.to_thread(lambda: known.turn_offline(on=False))
        assert await asyncio.to_thread(known.offline_since_s) is None
        await until(lambda: seen == [False, True, False], "the node heard of it")


async def test_peers_are_shown_and_asked_for(database: SiteDatabase, tmp_path: Path) -> None:
    known = operations(database, tmp_path)
    async with database.node() as node:
        await store(node, b"123", b"4567")
        following = PeerRecord("tokyo", cursor=1, state=PeerState.FOLLOWING, reason="")
        await node.peers.save(None, [following, PeerRecord("paris")])
        parked = Parked("tokyo", 1, digest_of(b"123"), None, "label", "refused", 1.0)
        await node.peers.park(None, [parked])
        paris, tokyo = await asyncio.to_thread(known.peers)
        assert (paris.name, paris.lags, tokyo.name, tokyo.parked) == ("paris", {}, "tokyo", 1)
        lag = tokyo.lags[Lane.ALWAYS]
        sizes = [row.size_bytes for row in (await node.log.read(1, 10)).rows]
        assert (lag.objects, lag.size_bytes) == (1, sizes[0])
        assert await asyncio.to_thread(known.parked, None, 10) == [parked]
        assert await asyncio.to_thread(known.retry_parked, "tokyo") == 1
        await asyncio.to_thread(known.reconcile, "paris")
        assert {r.name: r.wanted for r in await node.peers.records()} == {"paris": 1, "tokyo": 0}
        await asyncio.to_thread(known.drop_peer, "tokyo")
        assert [record.name for record in await node.peers.records()] == ["paris"]
        assert await node.peers.parked_counts() == {}


async def test_verify_finds_what_is_wrong_and_quarantines_it_on_request(
    database: SiteDatabase, tmp_path: Path
) -> None:
    known = operations(database, tmp_path, b"object 1")
    async with database.node() as node:
        await store(node, b"fine", b"spoilt")
        await store_object(node, b"object 1", GOOD)
        await store_object(node, b"object 2", WRONG)
        await store_object(node, b"object 3", AWAY)
        seq = database.sql("SELECT seq FROM blob WHERE size = 6")[0][0]
        database.sql(f"UPDATE small SET data = 'broken' WHERE seq = {seq}")
        report = await asyncio.to_thread(lambda: known.verify(lambda *_: None, repair=False))
        assert (report.blobs, report.damaged_blobs, report.unknown_blobs) == (5, 2, 1)
        assert report.catalogue_problems == []
        assert all(await held(node, b"fine", b"spoilt", b"object 1", b"object 2", b"object 3"))
        await asyncio.to_thread(lambda: known.verify(lambda *_: None, repair=True))
        left = await held(node, b"fine", b"spoilt", b"object 1", b"object 2", b"object 3")
        assert left == [True, False, True, False, True]


async def test_verify_compares_totals_with_rows(database: SiteDatabase, tmp_path: Path) -> None:
    known = operations(database, tmp_path)
    async with database.node() as node:
        await store(node, b"fine")
        await node.index.put([Entry(EntryKey(EntryKind.ASSET_BLOB, "", b"n"), b"v", "l")])
        database.sql("UPDATE site SET bytes = bytes + 1, seq = seq + 2, ticks = 0")
        report = await asyncio.to_thread(lambda: known.verify(lambda *_: None, repair=False))
        assert len(report.catalogue_problems) == 3
        assert any("bytes differ" in each for each in report.catalogue_problems)


async def test_collect_evicts_down_to_a_target_and_says_what_held_it_back(
    database: SiteDatabase, tmp_path: Path
) -> None:
    known = operations(database, tmp_path)
    async with database.node() as node:
        await store(node, *(bytes([n]) * 744 for n in range(4)))
        database.age(*(digest_of(bytes([n]) * 744) for n in range(3)))
        report = await asyncio.to_thread(lambda: known.collect(lambda *_: None, target_bytes=2000))
        assert (report.freed_bytes, report.stored_bytes, report.held_back) == (2000, 2000, "")
        report = await asyncio.to_thread(lambda: known.collect(lambda *_: None, target_bytes=0))
        assert (report.freed_bytes, report.stored_bytes) == (1000, 1000)
        assert "leased" in report.held_back


async def test_explain_knows_blobs_entries_and_peers(
    database: SiteDatabase, tmp_path: Path
) -> None:
    known = operations(database, tmp_path, b"object 1")
    came = Provenance(Source.PEER, via=("tokyo-id",), origin="osaka")
    async with database.node() as node:
        await store(node, b"fine", provenance=came)
        await store_object(node, b"object 1", GOOD)
        key = EntryKey(EntryKind.ASSET_BLOB, "main", b"name")
        await node.index.put([Entry(key, b"value", "urn:1")])
        result = digest_of(b"action")
        name = bytes((1,)) + result.hash + result.size_bytes.to_bytes(8, "big")
        kind = EntryKind.ACTION_RESULT
        await node.index.put([Entry(EntryKey(kind, "", name), b"result", str(result))])
        await node.peers.save(None, [PeerRecord("tokyo", cursor=1, state=PeerState.FOLLOWING)])

        def look() -> None:
            with known.explaining() as explainer:
                assert explainer.node_id == node.site_id
                assert not explainer.is_switched_offline
                facts = explainer.blob(digest_of(b"fine"))
                assert (facts["here"], facts["source"]) == (True, "peer osaka")
                assert facts["via"] == ["tokyo-id"]
                assert facts["eviction"].startswith("no: leased")
                (peer,) = facts["peers"]
                assert peer["answer"] == "acknowledged, or left out by its rules"
                large = digest_of(b"object 1")
                assert explainer.blob(large)["kept"] == "in the bucket"
                assert explainer.blob(large)["peers"][0]["answer"] == "not acknowledged yet"
                assert not explainer.blob(digest_of(b"absent"))["here"]
                wrong = Digest(large.hash, 7)
                assert not explainer.blob(wrong)["here"]
                assert explainer.missing([large, wrong, digest_of(b"")]) == {wrong}
                assert explainer.read(large) == b"object 1"
                assert explainer.read(digest_of(b"fine")) == b"fine"
                assert explainer.read(wrong) is None
                assert explainer.with_hash(DigestFunction.SHA256, large.hash) == large
                (asset,) = explainer.assets("urn:1", "main")
                assert asset.entry.value == b"value"
                assert explainer.assets("urn:1", "other") == []
                (found,) = explainer.action_results(result, None)
                assert (found.entry.value, found.facts["source"]) == (b"result", "client")

        await asyncio.to_thread(look)


async def test_a_copied_site_gets_an_id_of_its_own_while_no_node_serves_it(
    database: SiteDatabase, tmp_path: Path
) -> None:
    known = operations(database, tmp_path)
    async with database.node() as node:
        before, epoch = node.site_id, node.watch.log_epoch
        await leading(node)
        with pytest.raises(StorageRefused, match="nodes serve this site"):
            await asyncio.to_thread(known.new_id)
    given = await asyncio.to_thread(known.new_id)
    assert given.before == before
    async with database.node() as node:
        assert node.site_id == given.now != before
        assert node.watch.log_epoch != epoch


async def test_a_site_is_not_rebuilt_and_a_database_that_is_away_is_refused(
    database: SiteDatabase, tmp_path: Path
) -> None:
    known = operations(database, tmp_path)
    async with database.node():
        pass
    with pytest.raises(StorageRefused, match="backup"):
        known.rebuild(lambda *_: None)
    for refused in (known.backup, known.restore):
        with pytest.raises(StorageRefused, match="by their own means"):
            refused(tmp_path, lambda *_: None)
    database.server.stop()
    try:
        with pytest.raises(StorageRefused, match="database"):
            await asyncio.to_thread(known.summary)
    finally:
        database.server.start()
