"""What was purged at one node of a site is gone from the bucket and from all caches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.config.model import StorageConfig
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound, SourceUnavailable, StorageRefused
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.core.purges import Purge
from federation.core.replication_log import PeerRecord
from federation.core.uses import Use, counted_as
from federation.storage.reports import EntrySelection
from federation.storage.shared.naming import PART_BYTES
from federation.storage.shared.opening import operations_on_site
from federation.storage.shared.storage import SharedStorage
from tests.storage.conftest import until
from tests.storage.shared.test_large_blobs import fresh, kept, pieces, read
from tests.storage.shared.test_site_upkeep import leading
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
LARGE = 100 * 1024
_HOUR_MS = 3_600_000


async def purge(node: SharedStorage, *digests: Digest) -> None:
    await node.ledger.purges.purge([(digest, "") for digest in digests], "alice")


async def forget(site: TestSite, node: SharedStorage) -> None:
    """Have the only purge forgotten, as if it had been kept for long enough."""
    site.sql("UPDATE clock SET now_ms = now_ms + 1000")
    assert await node.core.catalogue.work.forget_purges(await leading(node), 0.5) == 1


async def hold(node: SharedStorage) -> tuple[Digest, bytes]:
    """Store a new large blob by way of a node, whose cache has it, too."""
    digest, data = fresh(LARGE)
    await node.write(digest, pieces(data))
    await kept(node, digest)
    return digest, data


async def is_cached(node: SharedStorage, digest: Digest) -> bool:
    with counted_as(Use.PEEK):
        return not await node.core.cache.find_missing([digest])


async def cleared(node: SharedStorage, digest: Digest) -> None:
    async def is_clear() -> bool:
        return not await is_cached(node, digest)

    await until(is_clear)


async def test_d12_a_purged_blob_leaves_the_bucket_and_every_cache(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, other = nodes
    digest, data = await hold(one)
    assert await read(other, digest) == data
    await kept(other, digest)
    await purge(one, digest)
    with pytest.raises(BlobNotFound):
        await read(one, digest)
    await cleared(one, digest)
    await cleared(other, digest)
    with pytest.raises(BlobNotFound):
        await read(other, digest)

    async def nothing_is_left() -> bool:
        await one.core.catalogue.watch.refresh()
        is_forgotten = one.core.catalogue.watch.totals() == (0, 0, 0, 0)
        return is_forgotten and not await asyncio.to_thread(site.objects)

    await until(nothing_is_left)


async def test_a_push_brings_a_blob_back_into_the_caches(nodes: list[SharedStorage]) -> None:
    one, _ = nodes
    digest, data = fresh(LARGE)
    await purge(one, digest)
    await one.write(digest, pieces(data))
    for node in nodes:

        async def is_kept(node: SharedStorage = node) -> bool:
            return await read(node, digest) == data and await is_cached(node, digest)

        await until(is_kept)


async def test_a_blob_of_a_peer_that_was_let_fall_is_not_kept_in_the_cache(
    nodes: list[SharedStorage],
) -> None:
    from tests.contracts.replication_log.test_purges import FROM_PEER

    one, _ = nodes
    digest, data = fresh(LARGE)
    await purge(one, digest)
    assert not await one.write(digest, pieces(data), provenance=FROM_PEER)
    await one.core.background.drain()
    assert not await is_cached(one, digest)


async def test_d12_a_node_that_was_away_clears_its_cache_before_it_serves(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "a") as one:
        async with site.node(tmp_path / "b") as away:
            digest, _ = await hold(away)
        await purge(one, digest)
        async with site.node(tmp_path / "b") as back:
            assert not await is_cached(back, digest)


async def test_d12_a_node_that_was_away_for_longer_than_purges_are_kept_compares_its_cache(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "a") as one:
        async with site.node(tmp_path / "b") as away:
            (purged, data), (held, _) = await hold(away), await hold(away)
        await purge(one, purged)
        await forget(site, one)
        async with site.node(tmp_path / "b") as back:
            assert not await is_cached(back, purged)
            assert await is_cached(back, held)
            await back.write(purged, pieces(data))
            await kept(back, purged)


async def test_d12_a_node_that_was_cut_off_for_longer_than_purges_are_kept_compares_its_cache(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, cut_off = nodes
    digest, data = await hold(cut_off)
    await cut_off.core.catalogue.watch.close()  # it polls no more
    await purge(one, digest)
    await forget(site, one)
    assert await read(cut_off, digest) == data
    await cut_off.core.catalogue.watch.refresh()
    with pytest.raises(BlobNotFound):
        await read(cut_off, digest)
    await cleared(cut_off, digest)

    async def is_current() -> bool:
        return cut_off.core.purged.is_current

    await until(is_current)


async def test_d13_a_node_that_is_too_old_for_its_site_reads_its_cache_no_more(
    nodes: list[SharedStorage],
) -> None:
    one, _ = nodes
    digest, data = await hold(one)
    assert await read(one, digest) == data
    one.core.catalogue.connections.give_up("upgrade this node")
    assert one.read_at_once(digest) is None
    with pytest.raises(SourceUnavailable, match="upgrade this node"):
        await read(one, digest)


async def test_another_log_epoch_numbers_records_anew(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, _ = nodes
    await purge(one, fresh(1)[0], fresh(2)[0])
    digest, _ = await hold(one)
    site.sql("DELETE FROM purge; UPDATE site SET purges = 0, purge_seq = 0, log_epoch = 'restored'")
    await purge(one, digest)
    await cleared(one, digest)


async def rest_of(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_d12_a_running_read_of_a_purged_blob_ends(nodes: list[SharedStorage]) -> None:
    one, other = nodes
    digest, data = fresh(3 * PART_BYTES)
    await one.write(digest, pieces(data))
    for node in (one, other):  # from the cache, and past it
        async with node.open_read(digest, next_bytes=lambda: 1000) as chunks:
            begun = aiter(chunks)
            await anext(begun)
            await purge(one, digest)
            await other.core.catalogue.watch.refresh()
            await node.core.purged.bring()
            with pytest.raises(BlobNotFound):
                await rest_of(begun)
        await one.write(digest, pieces(data))


async def test_a_purge_survives_a_crash_of_the_database(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, other = nodes
    digest, _ = fresh(1)
    await purge(one, digest)
    site.servers.database.kill()
    site.servers.database.start()

    async def has_heard() -> bool:
        return other.health()[0] and bool(other.core.catalogue.watch.row.purges)

    await until(has_heard)
    assert await other.ledger.purges.blobs_among([digest]) == {digest}


async def test_records_stay_while_they_are_of_use_and_until_every_peer_was_told(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    one, _ = nodes
    lead, work = await leading(one), one.core.catalogue.work
    used, unused, untold = (fresh(10)[0] for _ in range(3))
    await purge(one, used, unused, untold)
    told = (await one.ledger.purges.page(0, 2)).last
    await one.ledger.save([PeerRecord("tokyo", node_id="t", purges=told)])
    site.sql(f"UPDATE purge SET used = used - {2 * _HOUR_MS}")
    with counted_as(Use.LEASE):
        assert await one.find_missing([used]) == set()
    assert await work.forget_purges(lead, 3600) == 1
    left = (await one.ledger.purges.page(0, 10)).purges
    assert [each.thing for each in left] == [used, untold]
    assert await work.forget_purges(lead, 3600) == 0
    await one.ledger.drop("tokyo")
    assert await work.forget_purges(lead, 3600) == 1


def entry(instance: str, uri: str) -> Entry:
    return Entry(EntryKey(EntryKind.ASSET_BLOB, instance, uri.encode()), b"value", uri)


async def test_commands_find_entries_purge_them_and_say_so(
    site: TestSite, nodes: list[SharedStorage], tmp_path: Path
) -> None:
    one, _ = nodes
    operations = operations_on_site(tmp_path / "a", StorageConfig.model_validate(site.keys()))
    digest, _ = await hold(one)
    await one.put([entry("main", "urn:a"), entry("main", "urn:b"), entry("pr/1", "urn:a")])

    def found(**selection: object) -> list[tuple[str, str]]:
        wanted = EntrySelection(**selection)  # type: ignore[arg-type]
        return [(each.key.instance, each.label) for each in operations.find_entries(wanted)]

    assert await asyncio.to_thread(found, uri="urn:a") == [("main", "urn:a"), ("pr/1", "urn:a")]
    assert await asyncio.to_thread(found, instance="main") == [("main", "urn:a"), ("main", "urn:b")]
    assert await asyncio.to_thread(found, before_s=1.0) == []
    assert await asyncio.to_thread(found, action=digest) == []
    key = entry("main", "urn:a").key
    outcomes = await asyncio.to_thread(operations.purge, [(digest, ""), (key, "")], "alice")
    assert [(each.label, each.size_bytes, each.was_here) for each in outcomes] == [
        ("", LARGE, True), ("urn:a", len(b"value") + len("urn:a"), True),
    ]  # fmt: skip
    assert await asyncio.to_thread(found, instance="main") == [("main", "urn:b")]
    await cleared(one, digest)

    def explained() -> tuple[list[Purge], list[Purge]]:
        with operations.explaining() as explainer:
            return explainer.purges(digest), explainer.purges(label="urn:a")

    for (record,) in await asyncio.to_thread(explained):
        assert (record.by, record.is_allowed) == ("alice", False)
    assert (await asyncio.to_thread(operations.summary))["purges"] == 2
    report = await asyncio.to_thread(operations.verify, lambda *_: None, repair=False)
    assert report.catalogue_problems == []


async def test_a_cache_that_cannot_be_cleared_is_not_served(site: TestSite, tmp_path: Path) -> None:
    async with site.node(tmp_path / "a") as one:
        await purge(one, digest_of(b"1"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "site-purges.json").mkdir()
    with pytest.raises(StorageRefused, match="may have what was purged"):
        async with site.node(tmp_path / "b"):
            pytest.fail("it was opened")


async def test_a_stamp_far_ahead_does_not_keep_a_purge_from_the_caches(
    site: TestSite, nodes: list[SharedStorage]
) -> None:
    """Another node's clock may be wrong; what the site has taken over counts."""
    one, _ = nodes
    digest, _ = await hold(one)
    await purge(one, digest_of(b"1"))
    site.sql("UPDATE site SET ticks = ticks + 65536 * 290000::bigint")
    later = Stamp(one.core.catalogue.watch.row.ticks + 65536 * 290_000, "there")
    await one.ledger.purges.apply([Purge(digest, later)])
    await cleared(one, digest)
