"""What the lead of a shared site does: eviction, sweep, scrub, and the marker in the bucket."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import obstore
import pytest
from structlog.testing import capture_logs

from federation.config.model import StorageConfig
from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.core.replication_log import PeerRecord, PeerState
from federation.core.uses import Use, counted_as
from federation.storage.shared.admin.operations import SiteOperations
from federation.storage.shared.catalogue.rows import BlobObject, Lead, SiteRole
from federation.storage.shared.naming import PART_BYTES, part_names
from federation.storage.shared.opening import operations_on_site
from federation.storage.shared.part_hashes import hash_part
from federation.storage.shared.storage import SharedStorage
from federation.storage.shared.upkeep.bucket_check import BucketCheck
from federation.storage.shared.upkeep.bucket_sweep import BucketSweep
from federation.storage.shared.upkeep.site_eviction import SiteEviction
from federation.storage.shared.upkeep.site_scrub import SiteScrub
from federation.storage.shared.upkeep.site_upkeep import SiteUpkeep
from tests.storage.conftest import until
from tests.storage.shared.site import leave_out_flushes
from tests.storage.shared.test_large_blobs import fresh, pieces, read
from tests.support.object_store import BUCKET
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
KIB = 1024
_MARKED_S = 180.0  # the marker is looked at every ten seconds, and a busy machine misses some


@pytest.fixture
async def node(site: TestSite, tmp_path: Path) -> AsyncIterator[SharedStorage]:
    async with site.node(tmp_path / "data") as opened:
        yield opened


async def leading(node: SharedStorage) -> Lead:
    """Wait until a node leads the upkeep."""
    found: list[Lead] = []

    async def leads() -> bool:
        lead = node.core.catalogue.leads.lead(SiteRole.UPKEEP)
        found.extend([] if lead is None else [lead])
        return bool(found)

    await until(leads)
    return found[-1]


def put_back(site: TestSite) -> None:
    """Have the catalogue be as it was after its first blob, as a dump has it."""
    site.sql(
        "DELETE FROM small WHERE seq > 1; DELETE FROM blob WHERE seq > 1; "
        "DELETE FROM log WHERE seq > 1; "
        "UPDATE site SET seq = 1, blobs = 1, bytes = 100, logged = 100"
    )


async def test_the_least_recently_used_are_evicted_and_their_objects_deleted(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "data", quota=1000 * KIB) as node:
        blobs = [fresh(100 * KIB) for _ in range(9)]
        for digest, data in blobs[:8]:
            await node.write(digest, pieces(data))
        old = [digest for digest, _ in blobs[:4]]
        keys = ", ".join(f"'\\x01{digest.hash_hex}'::bytea" for digest in old)
        site.sql(f"UPDATE blob SET accessed = -1000000000, era = -1000 WHERE key IN ({keys})")
        await node.write(blobs[8][0], pieces(blobs[8][1]))
        last, data = fresh(60 * KIB)
        await node.write(last, pieces(data))

        evicted: set[Digest] = set()

        async def some_are_missing() -> bool:
            with counted_as(Use.PEEK):
                evicted.update(await node.find_missing([digest for digest, _ in blobs]))
            return bool(evicted)

        await until(some_are_missing)
        assert evicted <= set(old)
        site.sql("UPDATE gone SET due_ms = 0")

        async def deleted() -> bool:
            names = await asyncio.to_thread(site.objects)
            return not any(digest.hash_hex in name for digest in evicted for name in names)

        await until(deleted)


async def test_what_was_just_evicted_is_not_evicted_for_once_more(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "data", quota=1000 * KIB) as node:
        core = node.core
        await node._upkeep.close()  # it would evict, too
        for _ in range(16):
            digest, data = fresh(60 * KIB)
            await node.write(digest, pieces(data))
        site.sql("UPDATE blob SET accessed = -1000000000, era = -1000")
        lead = await leading(node)
        await core.catalogue.watch.refresh()
        await core.catalogue.watch.close()  # the database is slow, and polls are late
        for _ in range(3):
            await SiteEviction(core).evict(lead)
        assert site.sql("SELECT count(*) FROM blob") == [(14,)]


async def test_what_is_leased_is_not_evicted_however_full_the_site_is(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "data", quota=500 * KIB) as node:
        blobs = [fresh(100 * KIB) for _ in range(4)]
        for digest, data in blobs:
            await node.write(digest, pieces(data))
        done = await node.core.catalogue.work.evict(await leading(node), 10**9)
        assert done.freed_bytes == 0
        assert not await node.find_missing([digest for digest, _ in blobs])


@pytest.mark.parametrize("when_full", ["evict", "refuse"])
async def test_a_peer_that_lags_is_given_up_where_room_is_needed_if_that_is_configured(
    site: TestSite, tmp_path: Path, when_full: str
) -> None:
    settings = {"quota": 400 * KIB, "when-full": when_full}
    async with site.node(tmp_path / "data", **settings) as node:
        record = PeerRecord("tokyo", cursor=0, state=PeerState.FOLLOWING, reason="")
        await node.core.catalogue.peers.save(None, [record])
        blobs = [fresh(130 * KIB) for _ in range(3)]
        with capture_logs() as logged:
            for digest, data in blobs:
                await node.write(digest, pieces(data))
            site.sql("UPDATE blob SET accessed = -1000000000, era = -1000")

            lead = await leading(node)
            await node.core.catalogue.watch.refresh()
            await SiteEviction(node.core).evict(lead)  # the node does it, too
        events = [each for each in logged if each["event"] == "peer_needs_resync"]
        assert [(each["peer"], each["lane"]) for each in events] == (
            [("tokyo", "always")] if when_full == "evict" else []
        )


# -- sweep ------------------------------------------------------------------------------------


async def test_d11_the_sweep_deletes_what_has_no_row_and_nothing_else(
    site: TestSite, node: SharedStorage
) -> None:
    held, held_data = fresh(100 * KIB)
    await node.write(held, pieces(held_data))
    orphan, _ = fresh(PART_BYTES + 1)
    bucket = site.servers.bucket.store(BUCKET, site.prefix)
    left = part_names(BlobObject(orphan, b"12345678"))
    foreign = f"{orphan.hash_hex[:2]}/notes.txt"
    for name in (*left, foreign):
        obstore.put(bucket, name, b"x")
    young = BucketSweep(node.core, random.Random(1))
    assert await young.sweep(orphan.hash[0]) == 0, "it may be an upload under way"
    sweep = BucketSweep(node.core, random.Random(1), old_s=-3600)
    assert await sweep.sweep(orphan.hash[0]) == 2
    await sweep.sweep(held.hash[0])
    found = set(site.objects())
    assert not found & set(left)
    assert foreign in found
    assert await read(node, held) == held_data


async def test_the_sweep_spares_what_waits_to_be_deleted(
    site: TestSite, node: SharedStorage
) -> None:
    """A reader may still be at it."""
    digest, data = fresh(100 * KIB)
    first, second = node.begin(digest), node.begin(digest)
    for ingest in (first, second):
        await ingest.append(data)
        await ingest.commit()
    sweep = BucketSweep(node.core, random.Random(1), old_s=-3600)
    assert await sweep.sweep(digest.hash[0]) == 0
    assert len(site.objects()) == 2


# -- scrub ------------------------------------------------------------------------------------


async def scrub_until_missing(node: SharedStorage, held: list[Digest], spoilt: Digest) -> None:
    """Scrub until only this one of the blobs is missing."""
    step = asyncio.ensure_future(SiteScrub(node.core, after=b"").step())  # it ends with a wait

    async def found() -> bool:
        return await node.find_missing(held) == {spoilt}

    await until(found)
    step.cancel()


async def test_d05_the_scrub_finds_what_nobody_reads(site: TestSite, tmp_path: Path) -> None:
    async with site.node(tmp_path / "data", scrub={"rate": "1G"}) as node:
        blobs = [fresh(100 * KIB) for _ in range(3)]
        for digest, data in blobs:
            await node.write(digest, pieces(data))
        spoilt = blobs[1][0]
        name = next(each for each in site.objects() if spoilt.hash_hex in each)
        obstore.put(site.servers.bucket.store(BUCKET, site.prefix), name, b"y" * 100 * KIB)

        await scrub_until_missing(node, [digest for digest, _ in blobs], spoilt)


async def test_d05_the_scrub_compares_the_whole_with_its_digest(
    site: TestSite, tmp_path: Path
) -> None:
    """Even where the row says that its hashes prove the whole: somebody may be wrong about that."""
    digest, data = fresh(100 * KIB)
    other = bytes([data[0] ^ 1]) + data[1:]
    async with site.node(tmp_path / "data", scrub={"rate": "1G"}) as node:
        await node.write(digest, pieces(data))
        (name,) = site.objects()
        obstore.put(site.servers.bucket.store(BUCKET, site.prefix), name, other)
        hashed = f"'\\x{hash_part(other).hex()}'::bytea"
        site.sql(f"UPDATE blob SET parts = {hashed} || substr(parts, 33)")
        await scrub_until_missing(node, [digest], digest)


# -- the marker -------------------------------------------------------------------------------


async def test_d06_a_bucket_of_another_site_is_refused(site: TestSite, tmp_path: Path) -> None:
    async with site.node(tmp_path / "a"):
        pass
    stranger = site.servers.new_site()
    stranger.prefix = site.prefix
    with pytest.raises(StorageRefused, match="belongs to the site"):
        async with stranger.node(tmp_path / "b"):
            pytest.fail("it opened")


async def test_d06_another_bucket_for_a_site_that_has_blobs_is_refused(
    site: TestSite, tmp_path: Path
) -> None:
    digest, data = fresh(100 * KIB)
    async with site.node(tmp_path / "a") as node:
        await node.write(digest, pieces(data))
    site.prefix = site.servers.bucket.new_prefix()
    with pytest.raises(StorageRefused, match="is it another bucket"):
        async with site.node(tmp_path / "b"):
            pytest.fail("it opened")


async def test_a_file_of_somebody_else_in_the_place_of_the_marker_is_refused(
    site: TestSite, tmp_path: Path
) -> None:
    obstore.put(site.servers.bucket.store(BUCKET, site.prefix), "site.json", b"[1]")
    with pytest.raises(StorageRefused, match="was not written by a node"):
        async with site.node(tmp_path / "a"):
            pytest.fail("it opened")


async def test_d07_after_an_older_catalogue_was_put_back_every_object_is_checked(
    site: TestSite, tmp_path: Path
) -> None:
    """What the old catalogue names and the bucket lacks is missing, in a new epoch of the log."""
    kept, kept_data = fresh(100 * KIB)
    lost, lost_data = fresh(100 * KIB)
    async with site.node(tmp_path / "a") as node:
        for digest, data in ((kept, kept_data), (lost, lost_data)):
            await node.write(digest, pieces(data))
        epoch = node.core.catalogue.watch.log_epoch
    backup = site.copy()
    async with site.node(tmp_path / "b") as node:
        for _ in range(3):
            await node.write_small([fresh(100)])
        head = node.core.catalogue.watch.head()

        async def told() -> bool:
            return bool((await node.core.marker.read()).head >= head)

        await until(told, within_s=_MARKED_S)
    gone = next(name for name in site.objects() if lost.hash_hex in name)
    obstore.delete(site.servers.bucket.store(BUCKET, site.prefix), gone)
    with capture_logs() as logged:
        async with backup.node(tmp_path / "c") as node:

            async def checked() -> bool:
                facts = await node.core.marker.read()
                return facts.log_epoch != epoch and not facts.is_checking

            await until(checked, within_s=_MARKED_S)
            assert await node.find_missing([kept, lost]) == {lost}
            assert await read(node, kept) == kept_data
    assert "older_catalogue_put_back" in [each["event"] for each in logged]


async def test_d07_an_older_catalogue_that_is_put_back_while_nodes_run_is_noticed(
    site: TestSite, node: SharedStorage
) -> None:
    """The lead is the same, and knows newer rows than the database has now."""
    for _ in range(3):
        await node.write_small([fresh(100)])
    lead, upkeep = await leading(node), SiteUpkeep(node.core)
    await upkeep.mark(lead)
    epoch = node.core.catalogue.watch.log_epoch
    await upkeep.mark(lead)
    await node.core.catalogue.watch.refresh()
    assert node.core.catalogue.watch.log_epoch == epoch
    with capture_logs() as logged:
        put_back(site)  # which the node's own upkeep may notice first
        await upkeep.mark(lead)
    assert "older_catalogue_put_back" in [each["event"] for each in logged]
    await node.core.catalogue.watch.refresh()
    assert node.core.catalogue.watch.log_epoch != epoch


async def test_d07_an_older_catalogue_is_noticed_though_more_was_written_than_it_had_lost(
    site: TestSite, node: SharedStorage
) -> None:
    for _ in range(3):
        await node.write_small([fresh(100)])
    lead, upkeep = await leading(node), SiteUpkeep(node.core)
    await upkeep.mark(lead)
    epoch = node.core.catalogue.watch.log_epoch
    put_back(site)
    for _ in range(3):
        await node.write_small([fresh(100)])
    await upkeep.mark(lead)
    await node.core.catalogue.watch.refresh()
    assert node.core.catalogue.watch.log_epoch != epoch


async def test_d07_below_an_older_catalogue_nothing_is_evicted_and_leases_count_as_lost(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "small", quota=1450) as node:
        for _ in range(3):
            await node.write_small([fresh(100)])
        lead, upkeep, work = await leading(node), SiteUpkeep(node.core), node.core.catalogue.work
        await upkeep.mark(lead)
        put_back(site)
        for _ in range(3):
            await node.write_small([fresh(100)])
        site.sql("UPDATE blob SET accessed = 0, era = 0")
        watch = node.core.catalogue.watch
        await watch.refresh()
        await SiteEviction(node.core).evict(lead)
        assert site.sql("SELECT blobs FROM site") == [(4,)]
        await upkeep.mark(lead)
        assert (await work.evict(lead, 10**6)).is_paused
        await watch.refresh()
        assert site.sql("SELECT seq FROM site") == [(watch.head(),)]


async def test_a_pause_after_a_crash_begins_before_room_is_needed(
    site: TestSite, node: SharedStorage
) -> None:
    lead, eviction = await leading(node), SiteEviction(node.core)
    await eviction.trim_log(lead)
    assert site.sql("SELECT hold_ms FROM clock") == [(0,)]
    site.sql("UPDATE incarnation SET token = gen_random_uuid()")
    await eviction.trim_log(lead)
    assert site.sql("SELECT hold_ms > now_ms FROM clock") == [(True,)]


def commands(site: TestSite, data_dir: Path) -> SiteOperations:
    return operations_on_site(data_dir, StorageConfig.model_validate(site.keys()))


async def test_a_copy_of_a_site_gets_an_id_and_is_served_from_a_bucket_of_its_own(
    site: TestSite, tmp_path: Path
) -> None:
    (digest, data), (gone, gone_data) = fresh(100 * KIB), fresh(100 * KIB)
    async with site.node(tmp_path / "a") as node:
        await node.write(digest, pieces(data))
        await node.write(gone, pieces(gone_data))
    copy = site.copy()
    with pytest.raises(StorageRefused, match="of their own"):
        await asyncio.to_thread(commands(copy, tmp_path).new_id)
    copy.prefix = site.servers.bucket.new_prefix()
    (name,) = [each for each in site.objects() if digest.hash_hex in each]
    found = obstore.get(site.servers.bucket.store(BUCKET, site.prefix), name)
    obstore.put(site.servers.bucket.store(BUCKET, copy.prefix), name, found.bytes().to_bytes())
    made = await asyncio.to_thread(commands(copy, tmp_path).new_id)
    async with copy.node(tmp_path / "b") as node:
        assert node.node_id == made.now != made.before
        assert await read(node, digest) == data

        async def missing() -> bool:
            return await node.find_missing([digest, gone]) == {gone}

        await until(missing, within_s=_MARKED_S)


async def test_d07_a_check_that_was_interrupted_is_done_by_the_next_lead(
    site: TestSite, tmp_path: Path
) -> None:
    lost, data = fresh(100 * KIB)
    async with site.node(tmp_path / "a") as node:
        await node.write(lost, pieces(data))
    bucket = site.servers.bucket.store(BUCKET, site.prefix)
    obstore.delete(bucket, list(site.objects()))
    facts = json.loads(obstore.get(bucket, "site.json").bytes().to_bytes())
    obstore.put(bucket, "site.json", json.dumps(facts | {"checking": True}).encode())
    async with site.node(tmp_path / "b") as node:

        async def missing() -> bool:
            return await node.find_missing([lost]) == {lost}

        await until(missing, within_s=_MARKED_S)


@pytest.mark.parametrize("remembered_max", [1_000_000, 1])
async def test_checking_all_objects_finds_every_absent_one(
    site: TestSite, node: SharedStorage, remembered_max: int
) -> None:
    """Also where the list of a slice is too long to be remembered: then objects are asked for."""
    blobs = [fresh(100 * KIB) for _ in range(5)] + [fresh(PART_BYTES + 1)]
    for digest, data in blobs:
        await node.write(digest, pieces(data))
    await node.write_small([fresh(100)])
    lost = {blobs[2][0], blobs[5][0]}
    names = [name for name in site.objects() if blobs[2][0].hash_hex in name]
    last = max(name for name in site.objects() if blobs[5][0].hash_hex in name)
    obstore.delete(site.servers.bucket.store(BUCKET, site.prefix), [*names, last])
    assert await BucketCheck(node.core, remembered_max).check_all() == len(lost)
    assert await node.find_missing([digest for digest, _ in blobs]) == lost


async def test_d07_rows_that_a_crash_took_are_not_taken_for_an_older_catalogue(
    site: TestSite, node: SharedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is durable is written into the marker."""
    await node.write_small([fresh(100)])

    await leading(node)
    with monkeypatch.context() as patch:
        leave_out_flushes(patch)
        await node.write_small([fresh(100)])
    await node.core.marker.write()
    site.servers.database.kill()
    site.servers.database.start()

    found: list[bool] = []

    async def is_known() -> bool:
        with suppress(SourceUnavailable):  # the node has not found the database again
            await node.core.marker.read()
            found.append(await node.core.marker.is_ahead())
        return bool(found)

    await until(is_known)
    assert found == [False]
