"""Cached index entries are what the catalogue has, whichever process changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from federation.core.errors import InvalidRequest
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.core.uses import Use, counted_as
from federation.storage import entry_cache
from federation.storage.catalogue import entry_removal
from federation.storage.catalogue.transaction import Transaction
from federation.storage.entry_cache import EntryCache
from federation.storage.storage import Storage
from federation.storage.upkeep.redating import redate
from tests.storage.conftest import opened, short

Opener = Callable[..., Awaitable[Storage]]


def entry_of(name: int, value: bytes = b"v") -> Entry:
    return Entry(EntryKey(EntryKind.ASSET_BLOB, "", name.to_bytes(32, "big")), value, "uri")


def cache_of(storage: Storage) -> EntryCache:
    return storage._index._cache


def cached(storage: Storage, *names: int) -> list[bytes | None]:
    rows = cache_of(storage).look_up([entry_of(name).key for name in names])
    return [row and row.entry.value for row in rows]


async def values(storage: Storage, *names: int) -> list[bytes | None]:
    found = await storage.get([entry_of(name).key for name in names])
    return [entry and entry.value for entry in found]


class Pair(NamedTuple):
    """Two storages on one directory."""

    ours: Storage
    theirs: Storage

    def advance(self, by_ms: int) -> None:
        for storage in self:
            storage.core.store_clock._base_ms += by_ms


@pytest.fixture
async def pair(open_storage: Opener) -> Pair:
    return Pair(*[await open_storage(short(lease=3600)) for _ in range(2)])


async def test_what_was_read_is_cached(pair: Pair) -> None:
    ours, _ = pair
    await ours.put([entry_of(1), entry_of(2)])
    assert cached(ours, 1, 2) == [None, None]
    assert await values(ours, 1, 3) == [b"v", None]
    assert cached(ours, 1, 2, 3) == [b"v", None, None]
    assert await values(ours, 3, 2, 1) == [None, b"v", b"v"]
    assert cached(ours, 1, 2) == [b"v", b"v"]


async def test_a_new_value_is_seen_at_once_and_others_stay_cached(pair: Pair) -> None:
    ours, _ = pair
    await ours.put([entry_of(name) for name in range(3)])
    await values(ours, 0, 1, 2)
    await ours.put([entry_of(1, b"new")])
    assert cached(ours, 0, 1, 2) == [b"v", None, b"v"]
    assert await values(ours, 0, 1, 2) == [b"v", b"new", b"v"]
    assert cached(ours, 0, 1, 2) == [b"v", b"new", b"v"]


async def test_another_process_changes_an_entry(pair: Pair) -> None:
    ours, theirs = pair
    await ours.put([entry_of(name) for name in range(3)])
    await values(ours, 0, 1, 2)
    await theirs.put([entry_of(1, b"theirs")])
    assert cached(ours, 0, 1, 2) == [None] * 3
    assert await values(ours, 0, 1, 2) == [b"v", b"theirs", b"v"]
    await ours.put([entry_of(2, b"ours")])
    await theirs.put([entry_of(0, b"theirs")])
    await ours.put([entry_of(2, b"ours again")])
    assert cached(ours, 0, 1, 2) == [None] * 3, "a change between our own was overlooked"
    assert await values(ours, 0, 1, 2) == [b"theirs", b"theirs", b"ours again"]


def _evict(transaction: Transaction) -> None:
    entry_removal.delete(transaction, [1, 2, 3], 2**62)


def _redate(transaction: Transaction) -> None:
    redate(transaction, [])


@pytest.mark.parametrize("change", [_evict, _redate])
@pytest.mark.parametrize("by", [0, 1])
async def test_other_changes_than_puts_drop_all(
    pair: Pair, change: Callable[[Transaction], None], by: int
) -> None:
    await pair.ours.put([entry_of(1)])
    await values(pair.ours, 1)
    await pair[by].core.writer.submit(change)
    assert cached(pair.ours, 1) == [None]


async def test_what_is_being_committed_is_not_cached_before(pair: Pair) -> None:
    """A reader that meets a transaction between its announcement and its commit."""
    ours, theirs = pair
    await ours.put([entry_of(1)])
    met: list[object] = []
    loop = asyncio.get_running_loop()
    announce = theirs.core.entry_changes.announce

    def announce_and_be_read(transaction: Transaction) -> None:
        announce(transaction)
        met.append(asyncio.run_coroutine_threadsafe(values(ours, 1), loop).result())
        met.append(cached(ours, 1))

    theirs.core.entry_changes.announce = announce_and_be_read  # type: ignore[method-assign]
    await theirs.put([entry_of(1, b"new")])
    assert met == [[b"v"], [None]]
    assert await values(ours, 1) == [b"new"]
    assert cached(ours, 1) == [b"new"]


async def test_a_commit_that_fails_caches_nothing_and_the_next_one_mends_it(pair: Pair) -> None:
    ours, theirs = pair
    await ours.put([entry_of(1)])
    await values(ours, 1)
    announce = theirs.core.entry_changes.announce

    def announce_and_fail(transaction: Transaction) -> None:
        announce(transaction)
        raise InvalidRequest("no")

    theirs.core.entry_changes.announce = announce_and_fail  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest):
        await theirs.put([entry_of(1, b"lost")])
    assert await values(ours, 1) == [b"v"]
    assert cached(ours, 1) == [None]
    theirs.core.entry_changes.announce = announce  # type: ignore[method-assign]
    await ours.put([entry_of(2)])
    assert await values(ours, 1) == [b"v"]
    assert cached(ours, 1) == [b"v"]


async def test_a_failed_operation_among_others_changes_only_them(pair: Pair) -> None:
    ours, _ = pair
    await ours.put([entry_of(1), entry_of(2)])
    await values(ours, 1, 2)
    far = Stamp(2**62, "peer")
    future = entry_of(2, b"far")._replace(stamp=far)
    puts = [ours.put([entry_of(1, b"new")])]
    puts.append(ours.put([future], provenance=Provenance(Source.PEER)))
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None), InvalidRequest]
    assert await values(ours, 1, 2) == [b"new", b"v"]


async def test_many_changes_between_two_looks_are_not_overlooked(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = pair
    await ours.put([entry_of(name) for name in range(5)])
    await values(ours, 0, 1)
    monkeypatch.setattr(EntryCache, "catch_up", lambda _: None)  # nobody looks meanwhile
    for round_ in range(150):
        await ours.put([entry_of(1, b"%d" % round_)])
    monkeypatch.undo()
    assert cached(ours, 0, 1) == [None, None]
    await values(ours, 0)
    await ours.put([entry_of(name) for name in range(2, 1000)])
    assert await values(ours, 0, 1) == [b"v", b"149"]


async def test_a_start_alone_begins_from_what_the_catalogue_has(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("alone")
    async with opened(path, short(lease=3600)) as storage:
        await storage.put([entry_of(1)])
        storage.core.epoch.set_entry_changes(99)  # a transaction that a killed process announced
        await values(storage, 1)
        assert cached(storage, 1) == [None]
    async with opened(path, short(lease=3600)) as storage:
        await values(storage, 1)
        assert cached(storage, 1) == [b"v"]


async def test_a_truncated_file_of_counters_caches_nothing_stale(pair: Pair) -> None:
    ours, theirs = pair
    await ours.put([entry_of(1)])
    await values(ours, 1)
    with ours.core.directory.epoch.open("r+b") as file:
        file.truncate(0)
    assert cached(ours, 1) == [None]
    await theirs.put([entry_of(1, b"new")])
    assert await values(ours, 1) == [b"new"]
    assert cached(ours, 1) == [b"new"]


async def test_a_cached_entry_is_used_once_a_minute_by_clients_alone(pair: Pair) -> None:
    ours, _ = pair
    await ours.put([entry_of(1)])
    await values(ours, 1)
    await ours.flusher.flush()
    granularity_ms = ours.core.timing.granularity_ms
    pair.advance(granularity_ms - 1000)
    await values(ours, 1)
    assert not ours.core.touches._gathering
    pair.advance(2000)
    for use in (Use.PEEK, Use.LEASE):
        with counted_as(use):
            await values(ours, 1)
        assert not ours.core.touches._gathering
    await values(ours, 1)
    (used_ms,) = ours.core.touches._gathering.entries.values()
    pair.advance(1000)
    await values(ours, 1)
    assert list(ours.core.touches._gathering.entries.values()) == [used_ms]


async def test_a_backfill_does_not_fill_the_cache(pair: Pair) -> None:
    ours, _ = pair
    await ours.put([entry_of(1)])
    with counted_as(Use.PEEK):
        await values(ours, 1)
    assert cached(ours, 1) == [None]


async def test_the_cache_is_bounded_in_bytes_and_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = pair
    cache = cache_of(ours)
    cache._room_bytes = 200_000
    await ours.put([entry_of(name, bytes(1000)) for name in range(200)])
    await ours.put([entry_of(200, bytes(cache._room_bytes // 64))])
    for name in range(201):
        await values(ours, 0, name)
        assert cache.size_bytes <= 200_000
    assert cached(ours, 0, 1, 199, 200) == [bytes(1000), None, bytes(1000), None]
    monkeypatch.setattr(entry_cache, "_AGE_MAX_MS", 1000)
    pair.advance(2000)
    assert cached(ours, 0, 199) == [None, None]
    assert cache.size_bytes > 0
