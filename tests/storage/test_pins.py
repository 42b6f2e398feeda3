"""What peers have not acknowledged stays here, within the bounds of the quota and the log (P3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageFull
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.storage.catalogue.footprint import cost_of_blob
from federation.storage.storage import Storage
from tests.storage.conftest import opened, put, read, short, until

pytestmark = pytest.mark.slow

PULLED = Provenance(Source.UPSTREAM, origin="hq")


def following(name: str, cursor: int, *, pins_pulled: bool = False) -> PeerRecord:
    return PeerRecord(
        name, cursor=cursor, state=PeerState.FOLLOWING, reason="", pins_pulled=pins_pulled
    )


def entry(name: bytes) -> Entry:
    return Entry(EntryKey(EntryKind.ASSET_BLOB, "", name), b"value", "uri")


async def held(storage: Storage, *digests: Digest) -> set[Digest]:
    """Without leasing them."""
    found: set[Digest] = set()
    position: str | None = None
    while True:
        page = await storage.ledger.blobs(position, 100)
        found.update(page.digests)
        if page.next is None:
            return found & set(digests)
        position = page.next


async def unleased(storage: Storage) -> None:
    """Wait until no lease is left."""
    core = storage.core
    end_ms = core.now_ms() + core.timing.cutoff_age_ms + 10

    async def is_over() -> bool:
        return core.now_ms() > end_ms

    await until(is_over)


def cost(size_bytes: int) -> int:
    """What a small blob takes of the quota."""
    return cost_of_blob(size_bytes, inline=True)


async def evict_all(storage: Storage) -> int:
    """Evict whatever may be; return the bytes."""
    marked = await storage.maintenance.evict(0)
    await deleted(storage)
    return marked


async def deleted(storage: Storage) -> None:
    """Wait until what is marked is gone."""

    async def is_deleted() -> bool:
        return not storage.maintenance.eviction_pending

    await until(is_deleted)


async def state_of(storage: Storage, name: str) -> PeerRecord:
    (record,) = [record for record in await storage.ledger.peers() if record.name == name]
    return record


async def test_p3_what_a_peer_has_not_acknowledged_is_not_evicted(tmp_path: Path) -> None:
    async with opened(tmp_path, short(when_full="refuse")) as storage:
        sent, queued = await put(storage, b"sent" * 100), await put(storage, b"queued" * 9000)
        await storage.put([entry(b"sent")])
        await storage.ledger.save([following("tokyo", 1), following("paris", 3)])
        await unleased(storage)
        assert await storage.maintenance.evict(0) == cost(400)
        assert "kept for peers" in storage.maintenance.held_back
        await deleted(storage)
        assert await held(storage, sent, queued) == {queued}
        assert await storage.ledger.entries_at([entry(b"sent").key]) != [None]
        await storage.ledger.save([following("tokyo", 3)])

        async def is_looked_for_again() -> bool:
            return bool(await evict_all(storage))

        await until(is_looked_for_again)
        assert await held(storage, sent, queued) == set()
        assert await storage.ledger.entries_at([entry(b"sent").key]) == [None]


async def test_p3_what_upstreams_gave_is_kept_only_for_peers_that_want_it(tmp_path: Path) -> None:
    async with opened(tmp_path, short(when_full="refuse")) as storage:
        pushed = await put(storage, b"pushed")
        pulled = await put_pulled(storage, b"pulled")
        await storage.put([entry(b"pulled")], provenance=PULLED)
        await storage.ledger.save([following("all", 0, pins_pulled=True)])
        await unleased(storage)
        assert await evict_all(storage) == 0
        await storage.ledger.save([following("all", 0)])

        async def is_looked_for_again() -> bool:
            return bool(await evict_all(storage))

        await until(is_looked_for_again)
        assert await held(storage, pushed, pulled) == {pushed}
        assert await storage.ledger.entries_at([entry(b"pulled").key]) == [None]


async def put_pulled(storage: Storage, data: bytes) -> Digest:
    await storage.write_small([(digest_of(data), data)], provenance=PULLED)
    return digest_of(data)


async def test_r10_a_full_cache_gives_up_the_peer_that_lags_most_and_says_so(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, short()) as storage:
        first, second = await put(storage, b"first"), await put(storage, b"second")
        await storage.ledger.save(
            [following("late", 0), following("later", 1), following("there", 2)]
        )
        await unleased(storage)
        with capture_logs() as events:
            await storage.maintenance.evict(0, room_bytes=cost(len(b"second")))
            await deleted(storage)
        assert await held(storage, first, second) == {second}
        late = await state_of(storage, "late")
        assert (late.state, late.marks) == (PeerState.NEEDS_RESYNC, 1)
        assert "filled the quota" in late.reason
        assert (await state_of(storage, "later")).state is PeerState.FOLLOWING
        (told,) = [event for event in events if event["event"] == "peer_needs_resync"]
        assert (told["peer"], told["unacknowledged_rows"]) == ("late", 2)
        assert told["log_level"] == "error"
        assert await storage.maintenance.evict(0) == 0  # `federation gc` gives nobody up
        assert "kept for peers" in storage.maintenance.held_back
        assert await storage.maintenance.evict(0, room_bytes=0) == cost(len(b"second"))
        assert (await state_of(storage, "later")).state is PeerState.NEEDS_RESYNC
        assert (await state_of(storage, "there")).state is PeerState.FOLLOWING


async def test_a_peer_is_not_given_up_for_what_clients_have_leased(tmp_path: Path) -> None:
    async with opened(tmp_path, short(lease=600.0)) as storage:
        blob = await put(storage, b"leased")
        await storage.ledger.save([following("late", 0)])
        assert await storage.maintenance.evict(0, room_bytes=0) == 0
        assert "leased" in storage.maintenance.held_back
        assert await held(storage, blob) == {blob}
        assert (await state_of(storage, "late")).state is PeerState.FOLLOWING


async def test_r23_the_log_is_bounded_whoever_lags_and_writes_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path, short(log_max_rows=1000)) as storage:
        await storage.ledger.save(
            [following("late", 9)._replace(lane=Lane.WINDOW), following("there", 300)]
        )
        for start in range(0, 1300, 100):
            blobs = [b"%d" % n for n in range(start, start + 100)]
            await storage.write_small([(digest_of(blob), blob) for blob in blobs])
        await storage.maintenance.trim_log()
        rows, is_whole = await storage.ledger.read(300, 2000)
        assert (len(rows), is_whole) == (1000, True)
        assert (await storage.ledger.read(299, 10)).is_whole is False
        late = await state_of(storage, "late")
        assert (late.state, late.lane) == (PeerState.NEEDS_RESYNC, Lane.WINDOW)
        assert "log-max-rows" in late.reason
        assert (await state_of(storage, "there")).state is PeerState.FOLLOWING
        given_up = storage.core.metrics.peers.given_up.labels(peer="late", reason="log")
        assert given_up.value == 1
        await read(storage, await put(storage, b"more"))


async def test_r24_an_object_gone_by_an_operator_leaves_its_row_and_is_not_damaged(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, short()) as storage:
        blob = await put(storage, b"gone")
        await storage.put([entry(b"gone")])
        await unleased(storage)
        await evict_all(storage)
        rows, is_whole = await storage.ledger.read(0, 10)
        assert [row.digest or row.key for row in rows] == [blob, entry(b"gone").key]
        assert is_whole
        assert await storage.find_missing([blob]) == {blob}
        assert await storage.ledger.entries_at([entry(b"gone").key]) == [None]
        assert not await storage.ledger.is_damaged(blob)


async def test_r10_when_full_refuse_refuses_uploads_until_peers_have_what_is_here(
    tmp_path: Path,
) -> None:
    settings = short(when_full="refuse", quota=120_000, reserve=0)
    async with opened(tmp_path, settings) as storage:
        blob = await put(storage, b"x" * 90_000)
        await storage.ledger.save([following("tokyo", 0)])
        await unleased(storage)
        more = b"y" * 80_000
        (refused,) = await storage.write_small([(digest_of(more), more)])
        assert isinstance(refused, StorageFull)
        assert await storage.maintenance.evict(0, room_bytes=0) == 0
        assert "kept for peers" in storage.maintenance.held_back
        assert await read(storage, blob) == b"x" * 90_000
        assert (await state_of(storage, "tokyo")).state is PeerState.FOLLOWING
        await storage.ledger.save([following("tokyo", 1)])

        async def is_taken() -> bool:
            (refused,) = await storage.write_small([(digest_of(more), more)])
            return refused is None

        await until(is_taken)


async def test_r10_otherwise_uploads_go_on_and_the_peer_is_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path, short(quota=120_000, reserve=0)) as storage:
        await put(storage, b"x" * 90_000)
        await storage.ledger.save([following("tokyo", 0)])
        await unleased(storage)
        more = b"y" * 80_000

        async def is_taken() -> bool:
            (refused,) = await storage.write_small([(digest_of(more), more)])
            return refused is None

        await until(is_taken)
        assert (await state_of(storage, "tokyo")).state is PeerState.NEEDS_RESYNC


async def test_r23_a_burst_does_not_wait_for_the_next_minute_to_be_trimmed(tmp_path: Path) -> None:
    async with opened(tmp_path, short(log_max_rows=1000)) as storage:
        first = await put(storage, b"first")
        rows = (await storage.ledger.read(0, 1)).rows
        assert [row.digest for row in rows] == [first]  # after the first trim, which found nothing
        for start in range(0, 1200, 100):
            blobs = [b"%d" % n for n in range(start, start + 100)]
            await storage.write_small([(digest_of(blob), blob) for blob in blobs])

        async def is_bounded() -> bool:
            return len((await storage.ledger.read(0, 2000)).rows) <= 1100

        await until(is_bounded)
