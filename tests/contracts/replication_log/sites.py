"""A node's storage with its ledger, as the catalogue has it and as tests have it in memory.

What a ledger tells of is done by others: Site does it for the conformance suite.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from federation.config.model import LimitsConfig, ScrubConfig
from federation.config.model import StorageConfig as Settings
from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.index import Entry, Index
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.replication_log import Lane, ReplicationLog
from federation.core.store import LocalStore
from federation.observability.metrics import Metrics
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs, peer_records
from federation.storage.catalogue.transaction import Transaction
from federation.storage.replication_log import CatalogueLog
from federation.storage.storage import Storage
from federation.storage.upkeep import retention
from tests.support.memory_ledger import MemoryLedger, MemoryStorage


class ClosingLedger(ReplicationLog, Protocol):
    """A ledger that can stop leading."""

    def close(self) -> None: ...


class Stored(Protocol):
    """One node's storage."""

    @property
    def ledger(self) -> ReplicationLog: ...

    @property
    def store(self) -> LocalStore: ...

    @property
    def index(self) -> Index: ...


class Site(Stored, Protocol):
    """One node's storage, to which things can be done that ledgers tell of."""

    @property
    def ledger(self) -> ClosingLedger: ...

    async def remove(self, digest: Digest) -> None:
        """Have a blob gone, as eviction does."""
        ...

    async def damage(self, digest: Digest) -> None:
        """Have a blob found damaged."""
        ...

    async def trim(self, last_gone: int) -> None: ...

    async def mark(self, name: str, lane: Lane, reason: str) -> None: ...

    def another(self) -> ClosingLedger:
        """Return the ledger of another process on the same data."""
        ...


async def push(site: Stored, data: bytes, provenance: Provenance = FROM_CLIENT) -> Digest:
    (refused,) = await site.store.write_small([(digest_of(data), data)], provenance=provenance)
    assert refused is None
    return digest_of(data)


async def put(site: Stored, *entries: Entry, provenance: Provenance = FROM_CLIENT) -> None:
    await site.index.put(entries, provenance=provenance)


class MemorySite:
    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.ledger = MemoryLedger(self.storage)

    @property
    def store(self) -> LocalStore:
        return self.storage

    @property
    def index(self) -> Index:
        return self.storage

    async def remove(self, digest: Digest) -> None:
        self.storage.remove(digest)

    async def damage(self, digest: Digest) -> None:
        self.storage.remove(digest)
        self.storage.damaged.add(digest)

    async def trim(self, last_gone: int) -> None:
        self.storage.trim(last_gone)

    async def mark(self, name: str, lane: Lane, reason: str) -> None:
        self.storage.mark((name, lane), reason)

    def another(self) -> MemoryLedger:
        return MemoryLedger(self.storage)


class CatalogueSite:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.ledger = storage.ledger

    @property
    def store(self) -> LocalStore:
        return self.storage

    @property
    def index(self) -> Index:
        return self.storage

    async def remove(self, digest: Digest) -> None:
        key = blobs.key_of(digest)

        def work(transaction: Transaction) -> None:
            blobs.delete(transaction, blobs.look_up(transaction.connection, [key])[key])

        await self.storage.core.writer.submit(work)

    async def damage(self, digest: Digest) -> None:
        core, key = self.storage.core, blobs.key_of(digest)
        row = await core.pool.run(lambda: blobs.look_up(core.pool.connection(), [key])[key])
        await core.set_aside(digest, row.seq, Damage("for a test"))

    async def trim(self, last_gone: int) -> None:
        def work(tx: Transaction) -> None:
            rows_max = tx.totals.seq - last_gone
            retention.trim_log(tx, retention.LogBounds(rows_max, rows_max), 1000)

        await self.storage.core.writer.submit(work)

    async def mark(self, name: str, lane: Lane, reason: str) -> None:
        records = await self.ledger.peers()
        (record,) = [each for each in records if (each.name, each.lane) == (name, lane)]
        await self.storage.core.writer.submit(lambda tx: peer_records.mark(tx, record, reason))

    def another(self) -> CatalogueLog:
        return CatalogueLog(self.storage.core, self.storage.node_id, self.ledger.log_epoch)


@asynccontextmanager
async def memory(_: pytest.FixtureRequest) -> AsyncIterator[Site]:
    yield MemorySite()


@asynccontextmanager
async def in_catalogue(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    path: Path = request.getfixturevalue("tmp_path")
    settings = Settings(scrub=ScrubConfig(rate=0))
    storage = await Storage.open(path / "data", settings, LimitsConfig(), Metrics(), SystemClock())
    yield CatalogueSite(storage)
    await storage.close()


@asynccontextmanager
async def shared(request: pytest.FixtureRequest, *, two_nodes: bool = False) -> AsyncIterator[Site]:
    from tests.contracts.replication_log.shared import shared_site  # it starts processes

    server = request.getfixturevalue("postgres_server")
    async with shared_site(server, two_nodes=two_nodes) as site:
        yield site


@asynccontextmanager
async def stored(
    request: pytest.FixtureRequest, *, two_nodes: bool = False
) -> AsyncIterator[Stored]:
    """A shared site whose nodes have caches and a bucket, too."""
    from tests.contracts.replication_log.shared import stored_site

    made = request.getfixturevalue("site")
    path: Path = request.getfixturevalue("tmp_path")
    async with stored_site(made, path, two_nodes=two_nodes) as site:
        yield site


SITES: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Site]]] = {
    "memory": memory,
    "catalogue": in_catalogue,
}
ON_SERVERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Site]]] = {
    "shared": shared,
    "shared, two nodes": partial(shared, two_nodes=True),
}
STORED_ON_SERVERS: dict[
    str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Stored]]
] = {
    "shared": stored,
    "shared, two nodes": partial(stored, two_nodes=True),
}
