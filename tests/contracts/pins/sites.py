"""Storages that keep what pins name: a data directory, a shared site with one node, and with two.

With two nodes things are written and pinned through one, and asked for and kept through the other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig, StorageConfig
from federation.core.digest import Digest
from federation.core.index import Entry, Index
from federation.core.pins import ClosureWalk, FetchBlobs
from federation.core.purges import Purges
from federation.core.store import LocalStore, Readable
from federation.storage.catalogue import change_log
from federation.storage.pin_walk import PinWalker
from federation.storage.pinning import StoredPins
from federation.storage.storage import Storage
from federation.storage.upkeep.expiry import Expiry
from federation.storage.upkeep.pin_keeper import PinKeeper
from tests.storage.conftest import opened, short
from tests.storage.test_eviction import age_all
from tests.support.polling import until

if TYPE_CHECKING:
    from federation.storage.shared.storage import SharedStorage
    from tests.support.sites import TestSite

Action = Callable[[], Awaitable[object]]
_QUOTA = 100_000_000
_LEASE_S = 3600


class PinningSite(Protocol):
    """A storage, what operators do to its pins, and what time and the upkeep do to it."""

    @property
    def store(self) -> LocalStore: ...

    @property
    def index(self) -> Index: ...

    @property
    def pins(self) -> StoredPins[Any]:
        """Through which things are pinned."""
        ...

    @property
    def asked(self) -> StoredPins[Any]:
        """Through which pins are listed."""
        ...

    @property
    def purges(self) -> Purges: ...

    def walker(self) -> PinWalker[Any]: ...

    async def settle(
        self, fetch: FetchBlobs | None = None, meanwhile: Action | None = None
    ) -> None:
        """Do what the upkeep does; the one in the background has nothing to walk with.

        meanwhile: happens once, before it looks what the first entry names.
        """
        ...

    async def expire(self) -> int:
        """Do a round of storage.expire-after; return how many entries it removed."""
        ...

    async def pass_ms(self, ms: int) -> None:
        """Let time pass, for leases, too."""
        ...

    async def evict_all(self) -> None:
        """Let so much time pass that no lease runs, and evict whatever may be."""
        ...

    async def damage(self, digest: Digest) -> None:
        """Have a blob found damaged."""
        ...

    async def trim(self) -> None:
        """Remove all rows of the change log."""
        ...

    def reconfigure(self, **changes: object) -> None: ...


def interrupted(meanwhile: Action | None) -> ClosureWalk:
    """Return a walk during whose first call something happens."""
    left, walk = [meanwhile] if meanwhile else [], pin_walk(LimitsConfig())

    async def walking(store: Readable, entry: Entry) -> bool:
        while left:
            await left.pop()()
        return await walk(store, entry)

    return walking


class DirectorySite:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def store(self) -> LocalStore:
        return self.storage

    @property
    def index(self) -> Index:
        return self.storage

    @property
    def pins(self) -> StoredPins[int]:
        return self.storage.ledger.pins

    @property
    def asked(self) -> StoredPins[int]:
        return self.storage.ledger.pins

    @property
    def purges(self) -> Purges:
        return self.storage.ledger.purges

    def walker(self) -> PinWalker[int]:
        return self.storage.pin_walker(pin_walk(LimitsConfig()))

    async def settle(
        self, fetch: FetchBlobs | None = None, meanwhile: Action | None = None
    ) -> None:
        keeper = PinKeeper(self.pins.records, self.pins.keepings, self.storage.core.clock)
        keeper.walker = self.storage.pin_walker(interrupted(meanwhile), fetch)
        await keeper.step()

    async def expire(self) -> int:
        return await Expiry(self.storage.core).round()

    async def pass_ms(self, ms: int) -> None:
        await self.storage.flusher.flush()
        self.storage.core.store_clock._base_ms += ms

    async def evict_all(self) -> None:
        await age_all(self.storage)
        await self.storage.maintenance.evict(0)

    async def damage(self, digest: Digest) -> None:
        os.truncate(self.storage.core.directory.blob_path(digest), 5)
        assert await self.storage.find_missing([digest]) == {digest}
        await self.storage.core.wait_set_aside(digest)

    async def trim(self) -> None:
        await self.storage.core.writer.submit(
            lambda tx: change_log.trim(tx, tx.totals.seq, 100_000)
        )

    def reconfigure(self, **changes: object) -> None:
        self.storage.apply_config(settings(**changes))


class NodesSite:
    """Nodes of a shared site, which may be the same one."""

    def __init__(self, site: TestSite, written: SharedStorage, asked: SharedStorage) -> None:
        from tests.contracts.replication_log.shared import TwoIndexes
        from tests.support.two_nodes import TwoNodes

        self.site = site
        self.nodes = [written, asked]
        self.store: LocalStore = TwoNodes(written, asked)
        self.index: Index = TwoIndexes(written, asked)

    @property
    def pins(self) -> StoredPins[Any]:
        return self.nodes[0].ledger.pins

    @property
    def asked(self) -> StoredPins[Any]:
        return self.nodes[1].ledger.pins

    @property
    def purges(self) -> Purges:
        return self.nodes[0].ledger.purges

    def walker(self) -> PinWalker[Any]:
        return PinWalker(self.pins.keepings, self.nodes[0], pin_walk(LimitsConfig()))

    async def leader(self) -> tuple[SharedStorage, Any]:
        """Return the node that leads the upkeep, and its lead."""
        from federation.storage.shared.catalogue.rows import SiteRole

        found: list[tuple[SharedStorage, Any]] = []

        def is_led() -> bool:
            leads = [(node, node.core.catalogue.leads.lead(SiteRole.UPKEEP)) for node in self.nodes]
            found.extend((node, lead) for node, lead in leads if lead is not None)
            return bool(found)

        await until(is_led, "a node leads the upkeep")
        return found[0]

    async def settle(
        self, fetch: FetchBlobs | None = None, meanwhile: Action | None = None
    ) -> None:
        from federation.storage.shared.upkeep.site_pin_keeping import SitePinKeeping

        node, lead = await self.leader()
        keeping = SitePinKeeping(node.core)
        keeping.walk_with(node, interrupted(meanwhile), fetch)
        await keeping.step(lead)

    async def expire(self) -> int:
        from federation.storage.shared.upkeep.site_expiry import SiteExpiry

        node, lead = await self.leader()
        return await SiteExpiry(node.core).round(lead)

    async def pass_ms(self, ms: int) -> None:
        for node in self.nodes:
            await node.core.uses.flush()
        await self._sql(f"UPDATE clock SET now_ms = now_ms + {ms}")

    async def evict_all(self) -> None:
        await self.pass_ms(2 * _LEASE_S * 1000)
        node, lead = await self.leader()
        while (await node.core.catalogue.work.evict(lead, 2**40)).freed_bytes:
            continue

    async def damage(self, digest: Digest) -> None:
        key = f"'\\x01{digest.hash_hex}'"
        ((seq,),) = await self._sql(f"SELECT seq FROM blob WHERE key = {key}")
        found = [(bytes.fromhex(f"01{digest.hash_hex}"), seq)]
        assert await self.nodes[1].core.catalogue.blobs.set_aside(found, "for a test") == 1

    async def trim(self) -> None:
        await self._sql("DELETE FROM log")

    def reconfigure(self, **changes: object) -> None:
        keys = self.site.keys(**_site_keys(**changes))
        for node in self.nodes:
            node.apply_config(StorageConfig.model_validate(keys))

    async def _sql(self, statement: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self.site.sql, statement)


def settings(**more: object) -> StorageConfig:
    return short(lease=_LEASE_S, quota=_QUOTA, **more)


def _site_keys(**more: object) -> dict[str, object]:
    return {"lease": _LEASE_S, "quota": _QUOTA, **more}


@asynccontextmanager
async def in_directory(
    request: pytest.FixtureRequest, **changes: object
) -> AsyncIterator[PinningSite]:
    path: Path = request.getfixturevalue("tmp_path")
    async with opened(path / "data", settings(**changes)) as storage:
        yield DirectorySite(storage)


@asynccontextmanager
async def on_nodes(
    request: pytest.FixtureRequest, *, two_nodes: bool = False, **changes: object
) -> AsyncIterator[PinningSite]:
    site: TestSite = request.getfixturevalue("site")
    path: Path = request.getfixturevalue("tmp_path")
    keys = _site_keys(**changes)
    async with AsyncExitStack() as stack:
        written = await stack.enter_async_context(site.node(path / "one", **keys))
        asked = written
        if two_nodes:
            asked = await stack.enter_async_context(site.node(path / "other", **keys))
        yield NodesSite(site, written, asked)


Maker = Callable[..., AbstractAsyncContextManager[PinningSite]]
MAKERS: dict[str, Maker] = {
    "directory": in_directory,
    "shared": on_nodes,
    "shared, two nodes": partial(on_nodes, two_nodes=True),
}
PARAMS = [
    name if name == "directory" else pytest.param(name, marks=pytest.mark.servers)
    for name in MAKERS
]
