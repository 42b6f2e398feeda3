"""A site on PostgreSQL for the replication log's suite, with one node or with two.

With two, what is written goes through one node, and what is asked goes through the other.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from federation.core.clock import SystemClock
from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey, Index
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.replication_log import Lane
from federation.core.store import LocalStore
from federation.core.tasks import FailingWork
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.rows import Insertion, Lead, NewBlob, SiteRole
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from federation.storage.shared.site_log import SiteLog
from federation.storage.shared.storage import SharedStorage
from tests.storage.shared.site import log_of
from tests.support.polling import until
from tests.support.postgres import Postgres, database_of
from tests.support.sites import TestSite
from tests.support.two_nodes import TwoNodes

_INLINE_MAX = 16 * 2**10


class _Node:
    """The catalogue and the log of one node; what it writes, the log that is asked has seen."""

    def __init__(self, catalogue: SiteCatalogue) -> None:
        self.catalogue = catalogue
        self.log = log_of(catalogue)
        self.asked = self.log
        self.watch = catalogue.watch  # of the node that is asked

    async def seen(self) -> None:
        await self.watch.refresh()
        assert self.asked.head() >= self.log.head()

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], *, provenance: Provenance = FROM_CLIENT
    ) -> list[None]:
        new = [
            NewBlob(digest, data, provenance=provenance)
            if len(data) <= _INLINE_MAX
            else NewBlob(digest, None, secrets.token_bytes(8), bytes(32), provenance)
            for digest, data in blobs
        ]
        outcomes = await self.catalogue.blobs.insert(new)
        assert Insertion.FULL not in outcomes
        await self.seen()
        return [None for _ in blobs]

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        before = await self.catalogue.blobs.size_of(key_of(digest))
        await self.write_small([(digest, b"".join([chunk async for chunk in chunks]))])
        return before is None

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        (size,) = await self.catalogue.blobs.accept_held([key_of(digest)], provenance)
        await self.seen()
        return size == digest.size_bytes

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        keys = [key_of(digest) for digest in digests]
        found = await self.catalogue.blobs.look_up(keys, Use.CLIENT, with_bytes=True)
        return [found[key].data if key in found else None for key in keys]

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        await self.catalogue.index.put(entries, provenance=provenance)
        await self.seen()


class SharedSite:
    def __init__(self, server: Postgres, url: str, writer: _Node, other: _Node) -> None:
        self._server = server
        self._database = database_of(url)
        self._writer = writer
        self._other = other

    @property
    def ledger(self) -> SiteLog:
        return self._writer.asked

    @property
    def store(self) -> LocalStore:
        return cast(LocalStore, self._writer)

    @property
    def index(self) -> Index:
        return cast(Index, self._writer)

    async def remove(self, digest: Digest) -> None:
        """Age the blob, and evict it."""
        self._sql(f"UPDATE blob SET accessed = 0, era = 0 WHERE key = '\\x{key_of(digest).hex()}'")
        evicted = await self._writer.catalogue.work.evict(await self._upkeep(), 1)
        assert (evicted.blobs, evicted.entries) == (1, 0)

    async def damage(self, digest: Digest) -> None:
        blobs, key = self._writer.catalogue.blobs, key_of(digest)
        found = await blobs.look_up([key], Use.PEEK, with_bytes=False)
        assert await blobs.set_aside([(key, found[key].seq)], "for a test") == 1

    async def trim(self, last_gone: int) -> None:
        rows_max = self._writer.log.head() - last_gone
        await self._writer.catalogue.work.trim_log(
            await self._upkeep(), rows_max, rows_max, "trimmed"
        )

    async def mark(self, name: str, lane: Lane, reason: str) -> None:
        self._sql(
            f"UPDATE peer SET state = 'needs-resync', reason = '{reason}', position = '', "
            f"marks = marks + 1, holds = false WHERE name = '{name}' AND lane = '{lane}'"
        )

    def another(self) -> SiteLog:
        return self._other.log if self.ledger is self._writer.log else self._writer.log

    async def _upkeep(self) -> Lead:
        leads = self._writer.catalogue.leads
        await until(lambda: leads.lead(SiteRole.UPKEEP), "this node leads")
        lead = leads.lead(SiteRole.UPKEEP)
        assert lead is not None
        return lead

    def _sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self._server.sql(statement, self._database)


class StoredSite:
    """Open storages of one site: what is written goes through one, what is asked through another.

    They may be the same one.
    """

    def __init__(self, written: SharedStorage, asked: SharedStorage) -> None:
        self.store: LocalStore = TwoNodes(written, asked)
        self.index: Index = TwoIndexes(written, asked)
        self.ledger = asked.ledger


class TwoIndexes:
    """See Index."""

    def __init__(self, written: Index, asked: Index) -> None:
        self._written = written
        self._asked = asked

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        return await self._asked.get(keys)

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        return await self._asked.get_like(keys)

    def recall(self, key: EntryKey) -> Entry | None:
        return self._asked.recall(key)

    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        return self._asked.lacks_at_once(keys)

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        await self._written.put(entries, provenance=provenance)

    async def put_over(
        self, entry: Entry, held: Entry | None, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        return await self._written.put_over(entry, held, provenance=provenance)


@asynccontextmanager
async def stored_site(site: TestSite, path: Path, *, two_nodes: bool) -> AsyncIterator[StoredSite]:
    settings = {"inline-max": _INLINE_MAX}
    async with AsyncExitStack() as stack:
        written = await stack.enter_async_context(site.node(path / "one", **settings))
        asked = written
        if two_nodes:
            asked = await stack.enter_async_context(site.node(path / "other", **settings))
        yield StoredSite(written, asked)


@asynccontextmanager
async def shared_site(server: Postgres, *, two_nodes: bool) -> AsyncIterator[SharedSite]:
    url = server.new_database()
    settings = CatalogueSettings(url, lease_s=3600, connections_max=3, call_s=60)
    clock = SystemClock()
    first = _Node(await open_catalogue(settings, clock, FailingWork()))
    second = _Node(await open_catalogue(settings, clock, FailingWork()))
    if two_nodes:
        first.asked, first.watch = second.log, second.catalogue.watch
    yield SharedSite(server, url, first, second)
    await first.catalogue.close()
    await second.catalogue.close()
    server.drop_database(url)
