"""Everything that makes a hole in what was held together undoes its being remembered."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from federation.core.digest import Digest
from federation.core.uses import Use, counted_as
from federation.storage.catalogue.blobs import key_of, look_up
from federation.storage.held_watch import StoredWatch
from federation.storage.storage import Storage
from federation.storage.upkeep.eviction import Evictor
from tests.storage.conftest import opened, put, read, short

Opener = Callable[..., Awaitable[Storage]]
LEASE_MS = 3_600_000
_DAMAGE = "UPDATE small SET data = x'00' WHERE seq = ?"


class Pair(NamedTuple):
    """Two storages on one directory, and blobs: the first in the catalogue, the second a file."""

    ours: Storage
    theirs: Storage
    digests: list[Digest]

    def path(self) -> Path:
        return Path(self.ours.core.directory.blob_path(self.digests[1]))

    async def watched(self, use: Use = Use.CLIENT) -> StoredWatch:
        with counted_as(use):
            watch = self.ours.watch()
            assert not await self.ours.find_missing(self.digests)
        return watch

    def renews(self, watch: StoredWatch, use: Use = Use.CLIENT) -> bool:
        with counted_as(use):
            return watch.renew(lambda: self.digests)

    def advance(self, by_ms: int) -> None:
        for storage in (self.ours, self.theirs):
            storage.core.store_clock._base_ms += by_ms

    def row(self, digest: Digest) -> Any:
        key = key_of(digest)
        return look_up(self.ours.core.pool.connection(), [key])[key]


@pytest.fixture
async def pair(open_storage: Opener) -> Pair:
    ours, theirs = [await open_storage(short(lease=LEASE_MS / 1000)) for _ in range(2)]
    return Pair(ours, theirs, [await put(ours, os.urandom(size)) for size in (1000, 100_000)])


async def _mark_all(storage: Storage) -> None:
    await storage.flusher.flush()
    storage.core.store_clock._base_ms += 2 * LEASE_MS
    assert await Evictor(storage.core).mark(2**40)


async def _evict_here(pair: Pair) -> None:
    await _mark_all(pair.ours)
    pair.ours.core.store_clock._base_ms -= 2 * LEASE_MS  # so that only the epoch shows it


async def _evict_there(pair: Pair) -> None:
    await pair.ours.flusher.flush()
    await _mark_all(pair.theirs)


async def _read_damaged_file(pair: Pair) -> None:
    pair.path().write_bytes(b"x" * 100_000)
    assert await pair.theirs.read_small(pair.digests[1:]) == [None]
    await pair.theirs.core.background.drain()


async def _read_damaged_row(pair: Pair) -> None:
    seq = pair.row(pair.digests[0]).seq
    await pair.theirs.core.writer.submit(
        lambda tx: tx.connection.execute(_DAMAGE, (seq,)).fetchall()
    )
    assert await pair.theirs.read_small(pair.digests[:1]) == [None]
    await pair.theirs.core.background.drain()


async def _unlink(pair: Pair) -> None:
    pair.path().unlink()


async def _cut(pair: Pair) -> None:
    os.truncate(pair.path(), 10)


async def _move_folder(pair: Pair) -> None:
    pair.path().parent.rename(pair.path().parent.with_name("moved"))


async def _take_volume_away(pair: Pair) -> None:
    pair.ours.core.directory.volume._away = "another volume is mounted over it"


async def _die(pair: Pair) -> None:
    """A process is killed that may have set something aside, and another one notices."""
    (pair.ours.core.directory.run / "deadbeef.lock").touch()
    await pair.theirs.maintenance._remove_dead()


async def _die_and_start(pair: Pair) -> None:
    """The same, noticed by a process that starts."""
    core = pair.ours.core
    (core.directory.run / "deadbeef.lock").touch()
    async with opened(core.directory.root, short(lease=LEASE_MS / 1000)):
        pass


UNDOING = [
    _evict_here,
    _evict_there,
    _read_damaged_file,
    _read_damaged_row,
    _unlink,
    _cut,
    _move_folder,
    _take_volume_away,
    _die,
    _die_and_start,
]


@pytest.mark.parametrize("undo", UNDOING)
async def test_what_can_make_a_hole_undoes_it_at_once(
    pair: Pair, undo: Callable[[Pair], Awaitable[None]]
) -> None:
    watch = await pair.watched()
    assert pair.renews(watch)
    await undo(pair)
    assert not pair.renews(watch)
    assert not watch.renew(None)


@pytest.mark.parametrize("use", [Use.CLIENT, Use.LEASE, Use.PEEK])
async def test_a_hit_renews_what_a_look_up_would(pair: Pair, use: Use) -> None:
    watch = await pair.watched(Use.CLIENT)
    await pair.ours.flusher.flush()
    granularity_ms = pair.ours.core.timing.granularity_ms
    before = {digest: pair.row(digest) for digest in pair.digests}
    pair.advance(granularity_ms - 5000)
    assert pair.renews(watch, use)
    assert not pair.ours.core.touches._gathering, "it was written a moment ago"
    pair.advance(10_000)
    assert pair.renews(watch, use)
    await pair.ours.flusher.flush()
    for digest in pair.digests:
        row = pair.row(digest)
        assert (row.used_ms > before[digest].used_ms) == (use is Use.CLIENT)
        assert (row.leased_ms > before[digest].leased_ms) == (use is Use.LEASE)
    assert pair.renews(watch, use)
    assert not pair.ours.core.touches._gathering, "it is noted each time"


async def test_what_was_leased_alone_is_used_at_the_first_hit(pair: Pair) -> None:
    pair.advance(LEASE_MS)
    watch = await pair.watched(Use.LEASE)
    await pair.ours.flusher.flush()
    before = [pair.row(digest).used_ms for digest in pair.digests]
    assert pair.renews(watch, Use.CLIENT)
    await pair.ours.flusher.flush()
    after = [pair.row(digest).used_ms for digest in pair.digests]
    assert all(now > then + LEASE_MS / 2 for now, then in zip(after, before, strict=True))


async def test_what_a_peek_found_is_not_certain_as_nothing_is_leased(pair: Pair) -> None:
    watch = await pair.watched(Use.PEEK)
    assert not pair.renews(watch)


async def test_nothing_is_certain_after_a_lease(pair: Pair) -> None:
    watch = await pair.watched()
    await pair.ours.flusher.flush()
    pair.advance(LEASE_MS - 1000)
    assert pair.renews(watch, Use.PEEK)
    pair.advance(2000)
    assert not pair.renews(watch, Use.PEEK)


async def test_without_its_digests_it_is_certain_until_the_leases_have_to_be_renewed(
    pair: Pair,
) -> None:
    watch = await pair.watched()
    await pair.ours.flusher.flush()
    pair.advance(pair.ours.core.timing.granularity_ms - 1000)
    assert watch.renew(None)
    pair.advance(2000)
    assert not watch.renew(None)
    assert pair.renews(watch)


async def test_no_lease_is_given_while_leases_wait_to_be_written(pair: Pair) -> None:
    watch = await pair.watched()
    await pair.ours.flusher.flush()
    pair.ours.core.touches.blobs([b"something else"], pair.ours.core.now_ms())
    assert pair.renews(watch)
    pair.advance(pair.ours.core.timing.unflushed_max_ms + 1000)
    assert not pair.renews(watch)
    await pair.ours.flusher.flush()
    assert pair.renews(watch)


async def test_where_files_are_not_watched_only_large_closures_are_certain(pair: Pair) -> None:
    pair.ours.core.files.close()
    watch = await pair.watched()
    assert not pair.renews(watch)
    assert watch.renew(None), "as it was before files were watched"
    pair.ours.core.files.start()
    assert not pair.renews(watch), "the look-up came before"
    assert pair.renews(await pair.watched())


async def test_a_hit_keeps_all_from_eviction_for_a_lease(pair: Pair) -> None:
    watch = await pair.watched()
    await pair.ours.flusher.flush()
    pair.advance(LEASE_MS - 60_000)
    assert pair.renews(watch)
    await pair.ours.flusher.flush()
    pair.advance(LEASE_MS)
    evictor = Evictor(pair.theirs.core)
    assert not await evictor.mark(2**40)
    pair.advance(10 * 60_000)
    assert await evictor.mark(2**40), "this test would not see an eviction"
    for digest in pair.digests:
        assert await read(pair.ours, digest)
