"""Purges in a data directory: nothing that was remembered, kept or begun shows a purged name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.core import uses
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound, InvalidRequest, StorageFull
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.purges import Purge
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.core.uses import Use
from federation.storage.admin import find_entries, rebuild
from federation.storage.blob_files import Unreadable
from federation.storage.catalogue import purges
from federation.storage.catalogue.blobs import key_of
from federation.storage.directory import DataDirectory
from federation.storage.reports import EntrySelection
from federation.storage.shared_memory import Epoch
from federation.storage.storage import Storage
from federation.storage.upkeep import retention
from tests.storage.conftest import opened, short
from tests.storage.test_rebuild import silent

SMALL, LARGE = b"a small secret" * 10, b"a large secret" * 300_000
FROM_PEER = Provenance(Source.PEER, via=("other",))
KEY = EntryKey(EntryKind.ASSET_BLOB, "main", b"name")
ENTRY = Entry(KEY, b"value", "urn:test")


async def push(storage: Storage, data: bytes, provenance: Provenance = FROM_CLIENT) -> Digest:
    refused = await storage.write_small([(digest_of(data), data)], provenance=provenance)
    assert refused == [None]
    return digest_of(data)


async def purge(storage: Storage, *things: Digest | EntryKey) -> None:
    await storage.ledger.purges.purge([(each, "") for each in things], "alice")


def files_below(path: Path) -> list[Path]:
    return [each for each in (path / "blobs").glob("??/*") if each.is_file()]


def catalogue_bytes(path: Path) -> list[bytes]:
    catalogue = DataDirectory(path).catalogue
    return [Path(f"{catalogue}{suffix}").read_bytes() for suffix in ("", "-wal")]


async def test_what_caches_remember_is_forgotten_in_every_process(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as one, opened(tmp_path, short()) as other:
        digest = await push(one, SMALL)
        await one.put([ENTRY])
        for storage in (one, other):
            for _ in range(3):  # blobs are kept in memory from the second read on
                assert await storage.read_small([digest]) == [SMALL]
                assert await storage.find_missing([digest]) == set()
                assert await storage.get([KEY]) != [None]
            assert storage.read_at_once(digest) == SMALL
        await purge(other, digest, KEY)
        for storage in (one, other):
            assert await storage.read_small([digest]) == [None]
            assert await storage.find_missing([digest]) == {digest}
            assert storage.recall(KEY) is None
            assert await storage.get([KEY]) == [None]
        assert await one.ledger.purges.blobs_among([digest]) == {digest}


async def test_records_that_are_known_already_empty_no_cache(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        log, epoch = storage.ledger.purges, Epoch(tmp_path / "epoch")
        before = epoch.value
        await purge(storage, await push(storage, SMALL), KEY)
        purged = epoch.value
        assert purged != before
        page = await log.page(0, 10)
        assert await log.apply(page.purges) == 0
        assert epoch.value == purged
        epoch.close()


async def test_a_purge_through_one_process_ends_reads_in_another(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as one, opened(tmp_path, short()) as other:
        digest = await push(one, LARGE)
        async with one.open_read(digest, next_bytes=lambda: 65536) as chunks:
            assert await anext(chunks)
            await purge(other, digest)
            with pytest.raises(BlobNotFound):
                [chunk async for chunk in chunks]


async def test_a_running_read_of_another_blob_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        digest = await push(storage, LARGE)
        other = await push(storage, SMALL)
        read = bytearray()
        async with storage.open_read(digest, next_bytes=lambda: 65536) as chunks:
            async for chunk in chunks:
                if not read:
                    await purge(storage, other)
                read += chunk
        assert read == LARGE


async def test_a_blob_that_was_allowed_again_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        digest = await push(storage, LARGE)
        read = bytearray()
        async with storage.open_read(digest, next_bytes=lambda: 65536) as chunks:
            async for chunk in chunks:
                if not read:
                    await purge(storage, digest)
                    await push(storage, LARGE)
                read += chunk
        assert read == LARGE


async def test_no_bytes_are_left_in_the_directory(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        small, large = await push(storage, SMALL), await push(storage, LARGE)
        await storage.put([ENTRY._replace(value=SMALL * 50)])
        assert len(files_below(tmp_path)) == 1
        await purge(storage, small, large, KEY)
        assert files_below(tmp_path) == []
        assert [each for each in (tmp_path / "incoming").iterdir() if each.is_file()] == []
        assert not any(SMALL in data for data in catalogue_bytes(tmp_path))


async def test_a_quarantined_copy_goes_too_and_is_not_put_back(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        digest = await push(storage, LARGE)
        await storage.core.set_aside(digest, storage.ledger.head(), Unreadable("for a test"))
        assert await storage.find_missing([digest]) == {digest}
        assert len(list((tmp_path / "quarantine").iterdir())) == 1
        await purge(storage, digest)
        assert list((tmp_path / "quarantine").iterdir()) == []
        assert not await storage.ledger.is_damaged(digest)


async def test_a_peer_is_told_that_it_need_not_send_and_a_client_that_it_is_missing(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, short()) as storage:
        digest, other = await push(storage, SMALL), digest_of(b"never here")
        await purge(storage, digest)
        many = [digest_of(b"%d" % at) for at in range(40)]
        for asked in ([digest, other], [digest, other, *many]):
            with uses.counted_as(Use.LEASE):
                assert await storage.find_missing(asked) == set(asked) - {digest}
            with uses.counted_as(Use.PEEK):
                assert digest in await storage.find_missing(asked)
            assert digest in await storage.find_missing(asked)


async def test_records_of_the_future_are_refused_all_of_them(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        ahead = Stamp(int((storage.core.clock.wall_s() + 3600) * 1000) << 16, "other")
        await storage.put([ENTRY])
        fine = Purge(digest_of(SMALL), Stamp(5 << 16, "other"))
        with pytest.raises(InvalidRequest, match="clock-drift"):
            await storage.ledger.purges.apply([fine, Purge(KEY, ahead)])
        assert await storage.get([KEY]) != [None]
        assert (await storage.ledger.purges.page(0, 10)).purges == []


async def test_a_restart_remembers_what_was_purged(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        digest = await push(storage, SMALL)
        await purge(storage, digest, KEY)
        before = await storage.ledger.purges.page(0, 10)
    async with opened(tmp_path, short()) as storage:
        assert await storage.ledger.purges.page(0, 10) == before
        await push(storage, SMALL, FROM_PEER)
        assert await storage.find_missing([digest]) == {digest}


async def test_a_rebuilt_catalogue_remembers_what_was_purged(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        digest = await push(storage, LARGE)
        await storage.put([ENTRY])
        await purge(storage, digest, KEY)
        before = (await storage.ledger.purges.page(0, 10)).purges
    await asyncio.to_thread(rebuild, tmp_path, short(), silent)
    async with opened(tmp_path, short()) as storage:
        assert (await storage.ledger.purges.page(0, 10)).purges == before
        await push(storage, LARGE, FROM_PEER)
        assert await storage.find_missing([digest]) == {digest}


# -- how long ----------------------------------------------------------------------------------

_LONG_S = 3650 * 86400.0  # so that maintenance itself forgets nothing


async def forget(storage: Storage, keep_s: float) -> int:
    return await storage.core.writer.submit(lambda tx: retention.forget_purges(tx, keep_s))


async def age(storage: Storage, days: int) -> None:
    """Have every record last used so many days earlier."""
    await storage.flusher.flush()  # of uses up to now
    age_ms = days * 86_400_000
    await storage.core.writer.submit(
        lambda tx: tx.connection.execute("UPDATE purge SET used = used - ?", (age_ms,)).fetchall()
    )


async def test_a_record_is_forgotten_some_time_after_it_kept_something_out(tmp_path: Path) -> None:
    async with opened(tmp_path, short(purge_keep=_LONG_S)) as storage:
        old, used = await push(storage, SMALL), await push(storage, b"another")
        await purge(storage, old, used)
        await age(storage, 80)
        await push(storage, b"another", FROM_PEER)
        await age(storage, 20)
        assert await forget(storage, 90 * 86400.0) == 1
        assert await storage.ledger.purges.blobs_among([old, used]) == {used}
        assert await storage.core.pool.query(purges.count) == 1
        await age(storage, 91)
        assert await forget(storage, 90 * 86400.0) == 1
        await push(storage, SMALL, FROM_PEER)
        assert await storage.find_missing([old]) == set()


async def test_a_question_of_a_peer_is_a_use_of_a_record(tmp_path: Path) -> None:
    async with opened(tmp_path, short(purge_keep=_LONG_S)) as storage:
        digest = await push(storage, SMALL)
        await purge(storage, digest)
        await age(storage, 80)
        with uses.counted_as(Use.LEASE):
            assert await storage.find_missing([digest]) == set()
        await storage.flusher.flush()
        await age(storage, 20)
        assert await forget(storage, 90 * 86400.0) == 0


@pytest.mark.parametrize(
    ("record", "is_waited_for"),
    [
        (PeerRecord("never reached", purges=0), True),
        (PeerRecord("behind", state=PeerState.FOLLOWING, node_id="n", last_success_s=1.0), True),
        (PeerRecord("told", node_id="n", last_success_s=1.0, purges=2), False),
        (PeerRecord("no node of ours", last_success_s=1.0), False),
        (PeerRecord("a lane", Lane.WINDOW), False),
    ],
)
async def test_no_record_goes_before_every_peer_was_told(
    tmp_path: Path, record: PeerRecord, is_waited_for: bool
) -> None:
    async with opened(tmp_path, short(purge_keep=_LONG_S)) as storage:
        await storage.ledger.save([record])
        await purge(storage, digest_of(SMALL), KEY)
        await age(storage, 100)
        assert await forget(storage, 90 * 86400.0) == (0 if is_waited_for else 2)


async def test_the_number_of_records_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purges, "PURGES_MAX", 2)
    async with opened(tmp_path, short(purge_keep=_LONG_S)) as storage:
        things = [digest_of(b"%d" % at) for at in range(3)]
        await purge(storage, *things[:2])
        held = await push(storage, LARGE)
        with pytest.raises(StorageFull):
            await purge(storage, things[0], held, things[2])
        assert len(files_below(tmp_path)) == 1  # nothing is purged by halves
        assert await storage.find_missing([held]) == set()
        await purge(storage, things[0])  # a record that is there can change
        assert await storage.ledger.purges.blobs_among(things) == set(things[:2])


# -- what a command finds ------------------------------------------------------------------------


async def test_a_selection_finds_the_entries_that_meet_all_conditions(tmp_path: Path) -> None:
    def found(**wanted: object) -> list[bytes]:
        selection = EntrySelection(**wanted)  # type: ignore[arg-type]
        return sorted(each.key.name for each in find_entries(tmp_path, selection))

    action = digest_of(b"action")
    name = key_of(action) + action.size_bytes.to_bytes(8, "big")
    async with opened(tmp_path, short()) as storage:
        await storage.put([ENTRY, ENTRY._replace(key=KEY._replace(instance="pr"))])
        result = EntryKey(EntryKind.ACTION_RESULT, "pr", name)
        await storage.put([Entry(result, b"value", str(action))])
        now_s = storage.core.clock.wall_s()
        assert found() == sorted([b"name", b"name", name])
        assert found(instance="pr") == sorted([b"name", name])
        assert found(instance="") == []
        assert found(uri="urn:test") == [b"name", b"name"]
        assert found(uri="urn:test", instance="pr") == [b"name"]
        assert found(action=action) == [name]
        assert found(action=action._replace(size_bytes=0)) == []
        assert found(action=action._replace(size_bytes=0), is_sized=False) == [name]
        assert found(before_s=now_s - 60) == []
        assert len(found(before_s=now_s + 60)) == 3
