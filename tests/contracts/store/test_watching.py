"""What every store must do that remembers what it held (WatchesHeld)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.store import LocalStore, WatchesHeld
from federation.core.uses import Use
from federation.storage.blob_files import Damage
from federation.storage.catalogue.blobs import key_of
from federation.storage.storage import Storage
from tests.contracts.store.test_conformance import local
from tests.support.fakes import MemoryStore
from tests.support.polling import until

if TYPE_CHECKING:
    from federation.storage.shared.storage import SharedStorage
    from tests.support.sites import TestSite


class WatchingStore(LocalStore, WatchesHeld, Protocol):
    pass


class Watched(NamedTuple):
    store: WatchingStore
    lose: Callable[[Digest], Awaitable[None]]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[Watched]:
    store = MemoryStore()

    async def lose(digest: Digest) -> None:
        store.remove(digest)

    yield Watched(store, lose)


@asynccontextmanager
async def storage(path: Path) -> AsyncIterator[Watched]:
    async with local(path) as store:
        assert isinstance(store, Storage)

        async def lose(digest: Digest) -> None:
            newest = store.core.writer.totals.seq
            for seq in range(newest + 1):  # that of its row is among them
                await store.core.set_aside(digest, seq, Damage("is wrong"))

        yield Watched(store, lose)


@asynccontextmanager
async def shared(site: TestSite, path: Path) -> AsyncIterator[Watched]:
    async with site.node(path / "data") as store:
        yield Watched(store, partial(lose_from_site, store))


@asynccontextmanager
async def two_nodes(site: TestSite, path: Path) -> AsyncIterator[Watched]:
    """What one node sets aside is uncertain at the other one, too, a second later at most."""
    from tests.support.two_nodes import TwoNodes

    async with site.node(path / "one") as written, site.node(path / "other") as asked:

        async def lose(digest: Digest) -> None:
            presence = asked.core.catalogue.watch.presence()
            await lose_from_site(written, digest)
            await until(
                lambda: asked.core.catalogue.watch.presence() != presence, "the other node knows"
            )

        yield Watched(TwoNodes(written, asked), lose)


async def lose_from_site(store: SharedStorage, digest: Digest) -> None:
    key = key_of(digest)
    rows = await store.core.catalogue.blobs.look_up([key], Use.PEEK, with_bytes=False)
    await store.core.set_aside(digest, rows[key], "is wrong")


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Watched]]] = {
    "memory": memory,
    "local": storage,
}


SHARED_STORES = {"shared": shared, "shared, two nodes": two_nodes}
_SHARED = [pytest.param(name, marks=pytest.mark.servers) for name in SHARED_STORES]


@pytest.fixture(params=[*STORES, *_SHARED])
async def watched(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Watched]:
    if request.param in SHARED_STORES:
        site = request.getfixturevalue("site")
        async with SHARED_STORES[request.param](site, tmp_path) as on_servers:
            yield on_servers
    else:
        async with STORES[request.param](tmp_path) as made:
            yield made


async def put(store: LocalStore, *blobs: bytes) -> set[Digest]:
    named = {digest_of(data): data for data in blobs}
    assert await store.write_small(list(named.items())) == [None] * len(blobs)
    return set(named)


BLOBS = [b"small", b"large" * 20_000]


async def test_what_is_held_is_certain_until_anything_is_gone(watched: Watched) -> None:
    digests = await put(watched.store, *BLOBS)
    watch = watched.store.watch()
    assert not await watched.store.find_missing(digests)
    for _ in range(3):
        assert watch.renew(lambda: digests)
    await put(watched.store, b"another", b"another" * 20_000)
    assert watch.renew(lambda: digests), "what comes makes nothing uncertain"
    await watched.lose(digest_of(BLOBS[0]))
    for _ in range(2):
        assert not watch.renew(lambda: digests), "it is never certain again"
    await put(watched.store, BLOBS[0])
    assert not watch.renew(lambda: digests)
    assert watched.store.watch().renew(lambda: digests)


async def test_what_is_gone_during_the_look_up_is_not_covered(watched: Watched) -> None:
    digests = await put(watched.store, *BLOBS)
    watch = watched.store.watch()
    assert not await watched.store.find_missing(digests)
    await watched.lose(digest_of(BLOBS[1]))
    assert not watch.renew(lambda: digests)


async def test_a_watch_without_its_digests_is_certain_for_a_while(watched: Watched) -> None:
    digests = await put(watched.store, *BLOBS)
    watch = watched.store.watch()
    assert not await watched.store.find_missing(digests)
    assert watch.renew(None)
    await watched.lose(digest_of(BLOBS[1]))
    assert not watch.renew(None)
