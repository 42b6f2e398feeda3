"""Shared sites for tests: each has its own database and prefix on the servers of the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from federation.config.model import LimitsConfig, StorageConfig
from federation.core.clock import SystemClock
from federation.observability.metrics import Metrics
from federation.storage.shared import opening
from federation.storage.shared.catalogue import connections, leads
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.storage import SharedStorage
from tests.support.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, running
from tests.support.postgres import Postgres, database_of
from tests.support.quick import MEMORY

GIB = 2**30
_PATIENCE_S = 60


def wait_patiently(patch: pytest.MonkeyPatch) -> None:
    """Have nodes of this process wait longer than a busy machine, or one that stood still, takes.

    For the database, and for a silent lead: two nodes of one process stand still together, and
    then the one that goes on first would take the other for stopped.
    """
    patch.setattr(leads, "SILENT_S", _PATIENCE_S)
    patch.setattr(connections, "CONNECT_S", _PATIENCE_S)
    patch.setattr(opening, "CatalogueSettings", partial(CatalogueSettings, call_s=_PATIENCE_S))


class SiteServers:
    """The servers below all sites of a test process."""

    def __init__(self, database: Postgres, bucket: S3Server, folder: Path) -> None:
        self.database = database
        self.bucket = bucket
        self.credentials = folder / "credentials"
        self.credentials.write_text(
            f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        )

    def new_site(self) -> TestSite:
        """Make a database and a prefix that nobody has used."""
        return TestSite(self, self.database.new_database(), self.bucket.new_prefix())


class TestSite:
    """One site, which any number of nodes may be opened on."""

    __test__ = False  # pytest takes every class with such a name for tests

    def __init__(self, servers: SiteServers, catalogue: str, prefix: str) -> None:
        self.servers = servers
        self.catalogue = catalogue
        self.prefix = prefix

    def __repr__(self) -> str:
        return f"<TestSite {self.prefix}>"

    def keys(self, **changes: Any) -> Mapping[str, Any]:
        """Return the section `storage` of a node of this site, as in a configuration file."""
        objects = {
            "bucket": BUCKET,
            "prefix": self.prefix,
            "endpoint": self.servers.bucket.endpoint,
            "credentials": str(self.servers.credentials),
        }
        return {
            "engine": "shared",
            "catalogue": self.catalogue,
            "objects": objects,
            "quota": 10 * GIB,
            "cache": GIB,
            "scrub": {"rate": 0},
            **changes,
        }

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in the site's database."""
        return self.servers.database.sql(statement, database_of(self.catalogue))

    def copy(self) -> TestSite:
        """Return the site as it is now, for later; no node of it may run."""
        url = self.servers.database.new_database()
        name, of = database_of(url), database_of(self.catalogue)
        self.servers.database.sql(f"DROP DATABASE {name}")
        self.servers.database.sql(f"CREATE DATABASE {name} TEMPLATE {of}")
        return TestSite(self.servers, url, self.prefix)

    def objects(self) -> dict[str, int]:
        """Return the names and sizes of the objects of blobs in the bucket."""
        found = self.servers.bucket.objects(self.prefix)
        return {name: size for name, size in found.items() if "/" in name}

    @asynccontextmanager
    async def node(self, data_dir: Path, **changes: Any) -> AsyncIterator[SharedStorage]:
        """Open a node of the site in this process; changes: of keys()."""
        settings = StorageConfig.model_validate(self.keys(**changes))
        storage = await SharedStorage.open(
            data_dir, settings, LimitsConfig(), Metrics(), SystemClock()
        )
        try:
            yield storage
        finally:
            await storage.close()


@contextmanager
def site_servers_in(database: Postgres) -> Iterator[SiteServers]:
    """Run an S3 server beside a database server until the context ends."""
    memory = MEMORY if MEMORY.is_dir() else None  # fsync is slow, and no power fails here
    with (
        TemporaryDirectory(prefix="s3-", dir=memory, ignore_cleanup_errors=True) as folder,
        running(Path(folder)) as bucket,
    ):
        yield SiteServers(database, bucket, Path(folder))
