"""What pinned entries lack comes from upstreams, or else from peers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from federation.core.clock import ManualClock
from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageFailed
from federation.upstream.peer_copies import BlobHolder
from federation.upstream.pinned_holes import PinnedHoles
from federation.upstream.pull_through import UpstreamPool
from federation.upstream.upstream import Upstream
from tests.support.fakes import MemoryStore
from tests.upstream.fakes import Script, upstream
from tests.upstream.test_healer import Peer

SMALL, LARGE = os.urandom(1000), os.urandom(300_000)


@dataclass
class Here:
    holes: PinnedHoles
    store: MemoryStore
    pool: UpstreamPool
    clock: ManualClock


@asynccontextmanager
async def here(
    upstreams: Sequence[Upstream] = (),
    peers: Sequence[BlobHolder] = (),
    purged: Collection[Digest] = (),
) -> AsyncIterator[Here]:
    @asynccontextmanager
    async def holders() -> AsyncIterator[Sequence[BlobHolder]]:
        yield peers

    async def purged_among(digests: Collection[Digest]) -> set[Digest]:
        return set(digests).intersection(purged)

    store, clock = MemoryStore(), ManualClock()
    pool = UpstreamPool("me", store, upstreams, clock, presence_budget_s=60, purged=purged_among)
    try:
        yield Here(PinnedHoles(pool, holders, purged_among, clock), store, pool, clock)
    finally:
        await pool.close()


async def test_peers_give_what_upstreams_lack_and_are_asked_in_the_name_of_replication() -> None:
    (hub, there), peer, spare = upstream("hub"), Peer("oslo"), Peer("tokyo")
    digests = [digest_of(data) for data in (SMALL, LARGE, SMALL + LARGE)]
    there.blobs[digests[0]] = SMALL
    peer.store.blobs.update({digests[1]: LARGE, digests[2]: SMALL + LARGE})
    async with here([hub], [peer, spare]) as site:
        await site.holes.bring(digests)
        assert await site.store.find_missing(digests) == set()
        assert [each.replicates for each in peer.asked_as] == [True]
        assert not spare.asked_as
        assert await peer.store.find_missing(digests) == {digests[0]}


async def test_many_small_blobs_come_in_one_call_without_upstreams_and_while_offline() -> None:
    peer, blobs = Peer("oslo"), [os.urandom(100) for _ in range(50)]
    digests = [digest_of(data) for data in blobs]
    peer.store.blobs.update(zip(digests[:49], blobs, strict=False))
    async with here(peers=[peer]) as site:
        site.pool.offline = True
        await site.holes.bring(digests)
        assert await site.store.find_missing(digests) == {digests[49]}
        assert (peer.store.small_reads, peer.store.reads) == (1, [])


def looking_slowly(site: Here) -> asyncio.Event:
    """Have look-ups here wait until the event is set."""
    answers, look = asyncio.Event(), site.store.find_missing

    async def slow(digests: Collection[Digest]) -> set[Digest]:
        await answers.wait()
        return await look(digests)

    site.store.find_missing = slow  # type: ignore[method-assign]
    return answers


async def test_what_many_entries_lack_is_asked_of_a_peer_together() -> None:
    peer, blobs = Peer("oslo"), [os.urandom(100) for _ in range(50)]
    digests = [digest_of(data) for data in blobs]
    peer.store.blobs.update(zip(digests, blobs, strict=True))
    async with here(peers=[peer]) as site:
        answers = looking_slowly(site)
        calls = [asyncio.ensure_future(site.holes.bring([digest])) for digest in digests]
        await asyncio.sleep(0)  # the first asks, and the others wait for it together
        answers.set()
        await asyncio.gather(*calls)
        assert await site.store.find_missing(digests) == set()
        assert (len(peer.asked_as), peer.store.small_reads) == (2, 1)  # one blob is read alone
        await site.holes.bring([digest_of(b"absent")])
        assert len(peer.asked_as) == 3, "a batch begins anew"


async def test_what_one_call_failed_to_ask_for_is_asked_for_by_the_next_of_its_batch() -> None:
    peer, blobs = Peer("oslo"), [os.urandom(100) for _ in range(3)]
    digests = [digest_of(data) for data in blobs]
    peer.store.blobs.update(zip(digests, blobs, strict=True))
    async with here(peers=[peer]) as site:
        answers, look = looking_slowly(site), site.store.find_missing
        looks = 0

        async def fails_once(digests: Collection[Digest]) -> set[Digest]:
            nonlocal looks
            looks += 1
            if looks == 2:
                raise StorageFailed("a disk")
            return await look(digests)

        site.store.find_missing = fails_once  # type: ignore[method-assign]
        calls = [asyncio.ensure_future(site.holes.bring([digest])) for digest in digests]
        await asyncio.sleep(0)  # the first asks; the others are of one batch
        answers.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in outcomes] == [type(None), StorageFailed, type(None)]
        assert await site.store.find_missing(digests) == set()


async def test_purged_blobs_are_not_asked_for() -> None:
    peer, digest = Peer("oslo"), digest_of(SMALL)
    peer.store.blobs[digest] = SMALL
    async with here(peers=[peer], purged=[digest]) as site:
        await site.holes.bring([digest])
        assert await site.store.find_missing([digest]) == {digest}
        assert not peer.asked_as


async def test_a_silent_peer_rests_for_a_minute_and_others_are_asked() -> None:
    silent, other, digest = Peer("oslo", Script(down=True)), Peer("tokyo"), digest_of(SMALL)
    async with here(peers=[silent, other]) as site:
        for after_s in (0, 30, 31):
            site.clock.advance(after_s)
            await site.holes.bring([digest])
        assert (len(silent.asked_as), len(other.asked_as)) == (2, 3)


async def test_a_peer_that_fails_three_times_in_a_row_is_asked_for_nothing_more() -> None:
    peer = Peer("oslo", Script(break_at=[10] * 5))
    blobs = [os.urandom(300_000) for _ in range(5)]
    digests = [digest_of(data) for data in blobs]
    peer.store.blobs.update(zip(digests, blobs, strict=True))
    async with here(peers=[peer]) as site:
        await site.holes.bring(digests)
        assert (len(peer.store.reads), len(peer.asked_as)) == (3, 1)
        await site.holes.bring(digests)
        assert len(peer.asked_as) == 1
