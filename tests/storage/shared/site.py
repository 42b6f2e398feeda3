"""Nodes of a site for tests: their catalogues on one database, and what they ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest

from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.tasks import FailingWork
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.database_connection import Row, Statement
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.rows import Insertion, Lead, NewBlob, SiteRole
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from federation.storage.shared.site_log import SiteLog
from federation.storage.shared.site_pins import site_pins
from tests.support.polling import until
from tests.support.postgres import Postgres, database_of

LEASE_S = 3600.0
_BLOCKED = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def leave_out_flushes(patch: pytest.MonkeyPatch) -> None:
    """Have nodes acknowledge what is committed and not durable, for the controls of such tests."""

    async def cover(*_: object) -> None:
        """Stand in for CommitFlusher.cover."""

    async def flush_behind(flusher: CommitFlusher, statement: Statement) -> Row:
        return await flusher._connections.ask_one(statement.text, *statement.values)

    patch.setattr(CommitFlusher, "cover", cover)
    patch.setattr(CommitFlusher, "flush_behind", flush_behind)


class SiteDatabase:
    """The database of a site, and its nodes."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.url = server.new_database()
        self._name = database_of(self.url)

    @asynccontextmanager
    async def node(
        self, *, lease_s: float = LEASE_S, call_s: float = 60
    ) -> AsyncIterator[SiteCatalogue]:
        settings = CatalogueSettings(self.url, lease_s, connections_max=4, call_s=call_s)
        catalogue = await open_catalogue(settings, SystemClock(), FailingWork())
        try:
            yield catalogue
        finally:
            await catalogue.close()

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.sql(statement, self._name)

    def age(self, *digests: Digest) -> None:
        """Have the leases of blobs ended long ago."""
        for digest in digests:
            self.sql(
                f"UPDATE blob SET accessed = 0, era = 0 WHERE key = '\\x{key_of(digest).hex()}'"
            )

    def pass_ms(self, ms: int) -> None:
        """Advance the site's clock, as the lead of the upkeep does."""
        self.sql(f"UPDATE clock SET now_ms = now_ms + {ms}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold lock 7, for which a trigger of a test waits."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(7)")
            yield

    @contextmanager
    def transaction(self, statement: str) -> Iterator[None]:
        """Run a statement, and commit it at the end of the block."""
        with psycopg.connect(self.url) as connection:
            connection.execute(statement.encode())
            yield

    def blocked(self) -> int:
        """Return how many statements wait for locks."""
        return int(self.sql(_BLOCKED)[0][0])

    def drop(self) -> None:
        self.server.drop_database(self.url)


async def store(
    node: SiteCatalogue, *blobs: bytes, provenance: Provenance = FROM_CLIENT
) -> list[Insertion]:
    new = [NewBlob(digest_of(data), data, provenance=provenance) for data in blobs]
    return await node.blobs.insert(new)


async def store_object(
    node: SiteCatalogue, data: bytes, attempt: bytes, provenance: Provenance = FROM_CLIENT
) -> Insertion:
    blob = NewBlob(digest_of(data), None, attempt, bytes(32), provenance)
    (outcome,) = await node.blobs.insert([blob])
    return outcome


async def held(node: SiteCatalogue, *blobs: bytes, use: Use = Use.PEEK) -> list[bool]:
    sizes = await node.blobs.find([key_of(digest_of(data)) for data in blobs], use)
    return [size == len(data) for size, data in zip(sizes, blobs, strict=True)]


async def leading(node: SiteCatalogue, role: SiteRole = SiteRole.UPKEEP) -> Lead:
    await until(lambda: node.leads.lead(role), f"the node leads ({role})")
    lead = node.leads.lead(role)
    assert lead is not None
    return lead


def log_of(node: SiteCatalogue) -> SiteLog:
    """Return the replication log of a node."""
    return SiteLog(node, site_pins(node, SystemClock(), lambda: 10**9))


def numbers_of(rows: Sequence[Any]) -> list[int]:
    return [row.seq for row in rows]
