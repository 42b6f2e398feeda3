"""Pins in a data directory: what they keep, for how long, and within which bound."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig, StorageConfig
from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageFull
from federation.core.index import NO_STAMP, Entry, EntryKey
from federation.core.pins import FetchBlobs, Pin, PinKind, PinReport, PinTarget
from federation.core.provenance import Provenance, Source
from federation.core.store import Readable
from federation.storage.admin import backup, list_pins, rebuild, restore
from federation.storage.catalogue import entry_removal, eviction_rows
from federation.storage.catalogue.peer_records import NO_HOLDS
from federation.storage.storage import Storage
from federation.storage.upkeep.pin_keeper import PinKeeper
from federation.wire.action_result import key_of as action_key
from tests.storage.conftest import opened, put, short
from tests.storage.test_eviction import age_all, held
from tests.storage.test_rebuild import silent
from tests.support.messages import directory, message_of

Opener = Callable[..., Awaitable[Storage]]
Action = Callable[[], Awaitable[object]]
LEAF, OTHER = b"a leaf" * 1000, b"another" * 1000
LARGE = b"large leaf" * 10_000
MAIN = PinTarget(PinKind.INSTANCE, "main")
DAY_S = 86_400.0


def settings(**more: object) -> StorageConfig:
    return short(lease=3600, quota=100_000_000, **more)


@pytest.fixture
async def storage(open_storage: Opener) -> Storage:
    return await open_storage(settings())


def result(name: bytes, *roots: Digest, instance: str = "main") -> Entry:
    """An action result whose output directories these are."""
    value = reapi.ActionResult(exit_code=1)
    for at, root in enumerate(roots):
        value.output_directories.add(path=f"d{at}", root_directory_digest=message_of(root))
    action = digest_of(name)
    return Entry(action_key(instance, action), value.SerializeToString(), str(action))


async def tree_of(storage: Storage, *leaves: bytes) -> list[Digest]:
    """Store leaves below a directory in a directory; return the root and all of them."""
    digests = [await put(storage, leaf) for leaf in leaves]
    inner = await put(storage, directory({f"f{at}": each for at, each in enumerate(digests)}))
    return [await put(storage, directory({}, {"sub": inner})), inner, *digests]


def wanted(target: PinTarget = MAIN, until_s: float | None = None) -> Pin:
    return Pin(target, NO_STAMP, "a target", until_s, "why", "alice")


async def pin(
    storage: Storage, target: PinTarget = MAIN, until_s: float | None = None
) -> PinReport:
    walker = storage.pin_walker(pin_walk(LimitsConfig()))
    return await storage.ledger.pins.pin(wanted(target, until_s), walker)


async def settle(
    storage: Storage, fetch: FetchBlobs | None = None, meanwhile: Action | None = None
) -> None:
    """Do what the upkeep does; the one in the background has nothing to walk with.

    meanwhile: happens once, before it looks what the first entry names.
    """
    pins, walk = storage.ledger.pins, pin_walk(LimitsConfig())
    keeper = PinKeeper(pins.records, pins.keepings, storage.core.clock)
    left = [meanwhile] if meanwhile else []

    async def interrupted(store: Readable, entry: Entry) -> bool:
        while left:
            await left.pop()()
        return await walk(store, entry)

    keeper.walker = storage.pin_walker(interrupted, fetch)
    await keeper.step()


async def evict_all(storage: Storage) -> None:
    await age_all(storage)
    await storage.maintenance.evict(0)


async def names(storage: Storage, *entries: Entry) -> list[bool]:
    return [each is not None for each in await storage.get([entry.key for entry in entries])]


async def report(storage: Storage) -> PinReport:
    (found,) = (await storage.ledger.pins.report()).pins
    return found


async def test_eviction_reads_nothing_that_is_kept_and_checks_that_again(storage: Storage) -> None:
    digests = await tree_of(storage, LEAF)
    await storage.put([result(b"a", digests[0])])
    pulled = Provenance(Source.UPSTREAM, origin="hq")
    other = result(b"b", digests[0])
    await storage.put([other], provenance=pulled)
    await storage.write_small([(digest_of(OTHER), OTHER)], provenance=pulled)
    await pin(storage, PinTarget(PinKind.BLOB, digest=digest_of(OTHER)))
    await pin(storage)
    connection, now_ms = storage.core.pool.connection(), storage.core.now_ms() + 1
    rows: Any = connection.execute("SELECT used, key FROM blob").fetchall()
    ids = [row_id for (row_id,) in connection.execute("SELECT id FROM entry")]
    assert (len(rows), len(ids)) == (4, 2)
    for is_pulled in (True, False):
        chosen = (connection, 0, now_ms, NO_HOLDS, 10)
        assert eviction_rows.eviction_candidates(*chosen, pulled=is_pulled) == []
        assert entry_removal.eviction_candidates(*chosen, pulled=is_pulled) == []
    for table in ("blob", "entry"):
        query = (
            f"SELECT used FROM {table} WHERE kept = 0 AND source <> 1 AND used < 9 ORDER BY used"
        )
        (line,) = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
        assert line[3] == f"SEARCH {table} USING INDEX {table}_by_use (used<?)"
    marked = await storage.core.writer.submit(lambda tx: eviction_rows.mark(tx, rows, now_ms))
    assert marked == []
    gone = await storage.core.writer.submit(lambda tx: entry_removal.delete(tx, ids, now_ms))
    assert gone == (0, 0)
    held_bytes, kept_bytes = storage.core.writer.held_bytes, (await storage.ledger.pins.report())
    assert 0 < kept_bytes.size_bytes <= held_bytes + 8 * 4096


async def test_what_eviction_has_marked_is_held_again_once_it_is_pinned(storage: Storage) -> None:
    digest = await put(storage, LEAF)
    await evict_all(storage)
    assert await held(storage, [digest]) == []
    await pin(storage, PinTarget(PinKind.BLOB, digest=digest))
    assert await held(storage, [digest]) == [digest]


async def test_what_is_pinned_stays_with_all_that_it_names(storage: Storage) -> None:
    mine = await tree_of(storage, LEAF, LARGE)
    theirs = await tree_of(storage, OTHER)
    kept, gone = result(b"kept", mine[0]), result(b"gone", theirs[0], instance="pr")
    await storage.put([kept, gone])
    found = await pin(storage)
    assert (found.entries, found.blobs, found.missing, found.is_whole) == (1, 4, 0, True)
    await evict_all(storage)
    assert await held(storage, mine + theirs) == mine
    assert await names(storage, kept, gone) == [True, False]


async def test_what_comes_later_is_kept_and_so_is_what_replaces_it(storage: Storage) -> None:
    await pin(storage)
    first, second = await tree_of(storage, LEAF), await tree_of(storage, OTHER)
    await storage.put([result(b"a", first[0])])
    await settle(storage)
    assert (await report(storage)).blobs == 3
    await storage.put([result(b"a", second[0])])
    await settle(storage)
    await evict_all(storage)
    assert await held(storage, second) == second
    assert await held(storage, first) == first  # its former value is given back a day later
    storage.core.store_clock._base_ms += 90_000_000
    await settle(storage)
    await evict_all(storage)
    assert await held(storage, first + second) == second
    assert (await report(storage)).blobs == 3


async def test_what_was_unpinned_goes_but_for_what_others_need(storage: Storage) -> None:
    both, mine = await put(storage, LEAF), await put(storage, OTHER)
    shared = await put(storage, directory({"f": both}))
    alone = await put(storage, directory({"f": mine}))
    entries = [result(b"a", shared, alone), result(b"b", shared, instance="rel")]
    await storage.put(entries)
    other = PinTarget(PinKind.INSTANCE, "rel")
    first, second = await pin(storage), await pin(storage, other)
    assert (first.blobs, second.blobs) == (4, 0)
    await settle(storage)  # nothing is new any more
    assert [each.label for each in await storage.ledger.pins.unpin([MAIN], "bob")] == ["a target"]
    await settle(storage)
    assert (await report(storage)).blobs == 2
    await evict_all(storage)
    assert await held(storage, [both, shared, mine, alone]) == [both, shared]
    assert await names(storage, *entries) == [False, True]
    assert await storage.ledger.pins.unpin([MAIN], "bob") == []


async def test_a_blob_can_be_pinned_and_a_pin_ends_with_its_date(storage: Storage) -> None:
    digest = await put(storage, LARGE)
    target = PinTarget(PinKind.BLOB, digest=digest)
    now_s = storage.core.clock.wall_s()
    found = await pin(storage, target, now_s + DAY_S)
    assert (found.blobs, found.size_bytes > len(LARGE)) == (1, True)
    await evict_all(storage)
    assert await held(storage, [digest]) == [digest]
    await pin(storage, target, now_s - 1)  # only its date changes
    await settle(storage)
    assert (await storage.ledger.pins.report()).pins == []
    await evict_all(storage)
    assert await held(storage, [digest]) == []


async def test_what_pins_may_not_take_is_refused_and_nothing_of_it_stays(
    open_storage: Opener,
) -> None:
    storage = await open_storage(settings(pins_max="100K"))
    small, large = await tree_of(storage, LEAF), await tree_of(storage, OTHER, LARGE)
    await storage.put([result(b"small", small[0]), result(b"large", large[0], instance="rel")])
    kept = await pin(storage)
    with pytest.raises(
        StorageFull, match=r"pins may take 102400 bytes.*nothing of it was pinned"
    ) as why:
        await pin(storage, PinTarget(PinKind.INSTANCE, "rel"))
    assert str(kept.size_bytes) in str(why.value)
    await settle(storage)
    assert (await storage.ledger.pins.report()).size_bytes == kept.size_bytes
    await evict_all(storage)
    assert await held(storage, small + large) == small


async def test_later_entries_that_do_not_fit_are_left_out_and_taken_when_there_is_room(
    open_storage: Opener,
) -> None:
    storage = await open_storage(settings(pins_max="200K"))
    await pin(storage)
    first, second = await tree_of(storage, LARGE), await tree_of(storage, os.urandom(150_000))
    await storage.put([result(b"1", first[0]), result(b"2", second[0])])
    await settle(storage)
    found = await report(storage)
    assert (found.entries, found.left_out, found.is_whole) == (1, 1, False)
    storage.apply_config(settings(pins_max="400K"))
    storage.core.store_clock._base_ms += 90_000_000
    await settle(storage)
    found = await report(storage)
    assert (found.entries, found.left_out, found.is_whole) == (2, 0, True)
    await evict_all(storage)
    assert await held(storage, first + second) == first + second


async def test_a_hole_is_told_and_filled_from_elsewhere(storage: Storage) -> None:
    inner = directory({"f": digest_of(LEAF)})
    root = await put(storage, directory({}, {"sub": digest_of(inner)}))
    await storage.put([result(b"a", root)])
    found = await pin(storage)
    assert (found.incomplete, found.missing, found.is_whole) == (1, 1, False)
    elsewhere = {digest_of(data): data for data in (inner, LEAF)}
    asked: list[Digest] = []

    async def fetch(digests: Collection[Digest]) -> None:
        asked.extend(digests)
        pulled = Provenance(Source.UPSTREAM, origin="hq")
        blobs = [(each, elsewhere[each]) for each in digests]
        await storage.write_small(blobs, provenance=pulled)

    storage.core.store_clock._base_ms += 90_000_000
    await settle(storage, fetch)
    assert asked == [digest_of(inner), digest_of(LEAF)]
    found = await report(storage)
    assert (found.incomplete, found.missing, found.blobs, found.is_whole) == (0, 0, 3, True)


async def test_a_purge_takes_what_is_pinned_and_says_so(storage: Storage) -> None:
    digests = await tree_of(storage, LEAF)
    entry = result(b"a", digests[0])
    await storage.put([entry])
    await pin(storage)
    things: list[tuple[Digest | EntryKey, str]] = [(digests[2], ""), (entry.key, "")]
    outcomes = await storage.ledger.purges.purge(things, "bob")
    assert [each.was_pinned for each in outcomes] == [True, True]
    assert await held(storage, digests) == digests[:2]
    storage.core.store_clock._base_ms += 90_000_000
    await settle(storage)
    found = await storage.ledger.pins.report()
    assert (found.pins[0].entries, found.size_bytes) == (0, 0)


async def test_a_kept_blob_that_was_damaged_is_missed_and_kept_again(storage: Storage) -> None:
    digests = await tree_of(storage, LARGE)
    await storage.put([result(b"a", digests[0])])
    whole = await pin(storage)
    os.truncate(storage.core.directory.blob_path(digests[2]), 5)
    assert await storage.find_missing([digests[2]]) == {digests[2]}
    await storage.core.wait_set_aside(digests[2])
    assert (await report(storage)).incomplete == 1
    (refused,) = await storage.write_small([(digests[2], LARGE)])
    assert refused is None
    await settle(storage)
    found = await report(storage)
    assert (found.is_whole, found.size_bytes) == (True, whole.size_bytes)
    await evict_all(storage)
    assert await held(storage, digests) == digests


async def test_pins_survive_a_restart_a_restore_and_a_rebuild(tmp_path: Path) -> None:
    config = settings()
    async with opened(tmp_path / "data", config) as storage:
        digests = await tree_of(storage, LEAF, LARGE)
        kept = result(b"a", digests[0])
        await storage.put([kept])
        before = await pin(storage)
    backup(tmp_path / "data", tmp_path / "backup", silent)
    restore(tmp_path / "backup", tmp_path / "restored", silent)
    rebuild(tmp_path / "data", config, silent)
    for name in ("restored", "data"):
        async with opened(tmp_path / name, config) as storage:
            await evict_all(storage)  # before anybody has looked what the pins name
            assert await held(storage, digests) == digests
            assert await names(storage, kept) == [True]
            await settle(storage)
            found = await storage.ledger.pins.report()
            assert found.pins[0]._replace(pin=before.pin) == before
            assert found.size_bytes == before.size_bytes
            assert found.pins[0].pin == before.pin
        assert list_pins(tmp_path / name, config).pins[0] == before
