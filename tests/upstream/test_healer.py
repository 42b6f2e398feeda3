"""Damaged blobs come back by themselves, from upstreams or else from peers."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from federation.config.model import StorageConfig
from federation.core import hops
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound
from federation.core.lost_blobs import LostBlob
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.observability.metrics import Metrics
from federation.storage.admin.summary import summary
from federation.storage.storage import Storage
from federation.upstream.healer import Healer, again_in_s
from federation.upstream.peer_copies import BlobHolder
from federation.upstream.pull_through import UpstreamPool
from federation.upstream.upstream import Upstream
from tests.storage.conftest import opened, read, short
from tests.support.samples import sample_value
from tests.upstream.fakes import Script, ScriptedStore, upstream

SIZES = (100_000, 3_000_000)  # in a batch of small blobs, and by a pull of its own


class Peer:
    """A peer that answers by script, and notes as what it was asked."""

    def __init__(self, name: str, script: Script | None = None) -> None:
        self.name = name
        self.node_id = ""  # until it has answered
        self.store = ScriptedStore(name, script)
        self.wrong: list[Digest] = []
        self.asked_as: list[hops.Hops] = []
        find_missing = self.store.find_missing

        async def noted(digests: Collection[Digest]) -> set[Digest]:
            self.asked_as.append(hops.current())
            self.node_id = f"{name}-id"
            return await find_missing(digests)

        self.store.find_missing = noted  # type: ignore[method-assign]

    def sent_wrong_bytes(self, digest: Digest) -> None:
        self.wrong.append(digest)


@dataclass
class Site:
    storage: Storage
    healer: Healer
    shared: UpstreamPool
    metrics: Metrics
    path: Path

    async def lose(self, size: int, came: Provenance = FROM_CLIENT) -> tuple[Digest, bytes]:
        data = os.urandom(size)
        digest = digest_of(data)
        (refused,) = await self.storage.write_small([(digest, data)], provenance=came)
        assert refused is None
        _damage(self.storage.core.directory.blob_path(digest), size)
        with pytest.raises(BlobNotFound):
            await read(self.storage, digest)
        return digest, data

    async def due(self) -> Sequence[LostBlob]:
        return (await self.storage.lost.due(self.storage.core.clock.wall_s(), 100)).due

    async def heal(self) -> bool:
        return await self.healer.heal(await self.due())

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = summary(self.path, StorageConfig())["healing"]
        return found

    def healed(self, source: str) -> float | None:
        return sample_value(self.metrics, "federation_healed_total", {"source": source})


def _damage(path: str, size: int) -> None:
    Path(path).write_bytes(bytes(size))


@asynccontextmanager
async def site(
    path: Path, upstreams: Sequence[Upstream] = (), peers: Sequence[BlobHolder] = ()
) -> AsyncIterator[Site]:
    metrics = Metrics()

    @asynccontextmanager
    async def holders() -> AsyncIterator[Sequence[BlobHolder]]:
        yield peers

    async with opened(path, short()) as storage:
        clock = storage.core.clock
        shared = UpstreamPool("me", storage, upstreams, clock, presence_budget_s=60)
        healer = Healer(
            storage.lost, storage.fetching, shared, holders, metrics, clock, random.Random(1)
        )
        try:
            yield Site(storage, healer, shared, metrics, path)
        finally:
            await shared.close()


@pytest.mark.parametrize("size", SIZES)
async def test_s18_the_first_upstream_that_has_it_heals(tmp_path: Path, size: int) -> None:
    (empty, _), (hub, there) = upstream("empty"), upstream("hub")
    peer = Peer("tokyo")
    async with site(tmp_path, [empty, hub], [peer]) as here:
        digest, data = await here.lose(size)
        there.blobs[digest] = data
        assert await here.heal()
        assert await read(here.storage, digest) == data
        assert await here.due() == []
        assert (here.healed("upstream"), here.healed("peer")) == (1, 0)
        assert not peer.asked_as
        assert here.shown()["healed-blobs"][0]["from"] == "hub"


@pytest.mark.parametrize("size", SIZES)
async def test_s18_a_peer_heals_what_no_upstream_has_in_the_name_of_replication(
    tmp_path: Path, size: int
) -> None:
    (hub, _), empty, peer = upstream("hub"), Peer("oslo"), Peer("tokyo")
    async with site(tmp_path, [hub], [empty, peer]) as here:
        digest, data = await here.lose(size)
        peer.store.blobs[digest] = data
        assert await here.heal()
        assert await read(here.storage, digest) == data
        assert (here.healed("upstream"), here.healed("peer")) == (0, 1)
        assert [each.replicates for each in (*empty.asked_as, *peer.asked_as)] == [True, True]
        rows, _ = await here.storage.ledger.read(0, 10)
        # It is offered to other peers as what it was, and not to the one that gave it.
        assert (rows[-1].source, rows[-1].via, rows[-1].origin) == (
            Source.CLIENT,
            ("tokyo-id",),
            "tokyo",
        )


async def test_while_offline_only_peers_are_asked(tmp_path: Path) -> None:
    (hub, there), peer = upstream("hub"), Peer("tokyo")
    async with site(tmp_path, [hub], [peer]) as here:
        digest, data = await here.lose(SIZES[0])
        there.blobs[digest] = data
        here.shared.offline = True
        assert await here.heal()
        assert await here.storage.find_missing([digest]) == {digest}
        assert (there.small_reads, there.finds) == (0, 0)
        peer.store.blobs[digest] = data
        await here.healer.heal([LostBlob(digest, Source.CLIENT, 0.0, 1)])
        assert await here.storage.find_missing([digest]) == set()


async def test_a_try_counts_only_if_somebody_could_be_asked(tmp_path: Path) -> None:
    (hub, _) = upstream("hub")
    async with site(tmp_path, [hub]) as here:
        digest, _ = await here.lose(SIZES[0])
        here.shared.offline = True
        assert not await here.heal()
        assert [(each.digest, each.tries) for each in await here.due()] == [(digest, 0)]


async def test_what_nobody_has_is_put_off_and_the_record_says_who_said_what(
    tmp_path: Path,
) -> None:
    (hub, _), (down, _) = upstream("hub"), upstream("far", Script(down=True))
    silent, empty = Peer("oslo", Script(down=True)), Peer("tokyo")
    async with site(tmp_path, [hub, down], [silent, empty]) as here:
        digest, _ = await here.lose(SIZES[0])
        assert await here.heal()
        assert await here.due() == []
        (shown,) = here.shown()["lost-blobs"]
        assert (shown["digest"], shown["tries"]) == (str(digest), 1)
        assert shown["answers"] == (
            "hub: did not send it; far: far unavailable: refused; "
            "oslo: refused; tokyo: does not hold it"
        )


async def test_a_blob_that_was_asked_for_too_often_is_given_up(tmp_path: Path) -> None:
    (hub, _) = upstream("hub")
    async with site(tmp_path, [hub]) as here:
        digest, _ = await here.lose(SIZES[0])
        with capture_logs() as logged:
            await here.healer.heal([LostBlob(digest, Source.CLIENT, 0.0, 719)])
        assert [each["event"] for each in logged] == ["blob_given_up"]
        assert (await here.due(), here.shown()["lost"]) == ([], 0)


async def test_wrong_bytes_of_a_peer_are_not_kept_and_the_next_one_is_asked(tmp_path: Path) -> None:
    wrong, right = Peer("oslo", Script(flip_at=1)), Peer("tokyo")
    async with site(tmp_path, peers=[wrong, right]) as here:
        digest, data = await here.lose(SIZES[1])
        wrong.store.blobs[digest] = right.store.blobs[digest] = data
        assert await here.heal()
        assert wrong.wrong == [digest]
        assert await read(here.storage, digest) == data


async def test_a_peer_that_breaks_off_stops_nothing_else(tmp_path: Path) -> None:
    broken, right = Peer("oslo", Script(break_at=[70_000, 70_000])), Peer("tokyo")
    async with site(tmp_path, peers=[broken, right]) as here:
        (one, data), (other, more) = await here.lose(SIZES[0]), await here.lose(SIZES[0])
        for peer in (broken, right):
            peer.store.blobs.update({one: data, other: more})
        assert await here.heal()
        assert await here.storage.find_missing([one, other]) == set()


async def test_what_came_back_by_itself_is_noted_and_nobody_is_asked(tmp_path: Path) -> None:
    (hub, there) = upstream("hub")
    async with site(tmp_path, [hub]) as here:
        digest, data = await here.lose(SIZES[0])
        await here.storage.write_small([(digest, data)])
        await here.heal()
        assert there.small_reads == 0
        assert await here.due() == []
        assert here.healed("upstream") == 0


async def test_two_nodes_with_the_same_damage_end_with_what_a_third_has(tmp_path: Path) -> None:
    """Each asks the other first, which answers from what it holds itself."""
    third = Peer("third")
    async with site(tmp_path / "a") as a, site(tmp_path / "b") as b:
        digest, data = await a.lose(SIZES[0])
        await b.storage.write_small([(digest, data)])
        _damage(b.storage.core.directory.blob_path(digest), SIZES[0])
        with pytest.raises(BlobNotFound):
            await read(b.storage, digest)
        third.store.blobs[digest] = data
        for here, other in ((a, b), (b, a)):
            await _heal_from(here, _Node(other.storage), third)
            assert await read(here.storage, digest) == data
    assert len(third.store.reads) == 1, "the second node had it from the first"


class _Node:
    """A whole storage as a peer."""

    def __init__(self, storage: Storage) -> None:
        self.name, self.node_id, self.store = "other", storage.node_id, storage

    def sent_wrong_bytes(self, digest: Digest) -> None:
        pytest.fail(f"{digest} came wrong")


async def _heal_from(here: Site, *peers: BlobHolder) -> None:
    @asynccontextmanager
    async def holders() -> AsyncIterator[Sequence[BlobHolder]]:
        yield peers

    clock = here.storage.core.clock
    storage = here.storage
    healer = Healer(
        storage.lost, storage.fetching, here.shared, holders, here.metrics, clock, random.Random(1)
    )
    await healer.heal(await here.due())


def test_waits_grow_to_an_hour_and_tries_end() -> None:
    rng = random.Random(7)
    waits = [again_in_s(tries, rng) for tries in range(1, 721)]
    assert waits[-1] is None
    known = [wait for wait in waits if wait is not None]
    assert len(known) == 719
    assert 5 <= known[0] <= 10
    assert all(1800 <= wait <= 3600 for wait in known[20:])
    assert 20 * 86_400 < sum(known) < 25 * 86_400
