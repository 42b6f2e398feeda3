"""Nodes that reach their database through the PgBouncer of docs/examples."""

from __future__ import annotations

import asyncio
import configparser
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from federation.core.clock import SystemClock
from federation.core.errors import SourceUnavailable
from federation.core.tasks import FailingWork
from federation.core.uses import Use
from federation.storage.shared.catalogue.rows import SiteRole
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from tests.storage.shared.site import LEASE_S, SiteDatabase, held, store
from tests.support.guard import guarded
from tests.support.polling import until, wait_until
from tests.support.postgres import database_of
from tests.support.quick import MEMORY

pytestmark = pytest.mark.servers

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "pgbouncer.ini"
NODES, SERVER_CONNECTIONS = 12, 3


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PgBouncer's user can reach."""
    found = Path(mkdtemp(prefix="pooler-", dir=MEMORY if MEMORY.is_dir() else None))
    yield found
    shutil.rmtree(found)


@contextmanager
def pooler(folder: Path, database: SiteDatabase) -> Iterator[str]:
    """Run the example on a socket in a folder; yield the URL of the database through it."""
    settings = configparser.ConfigParser()
    settings.read(EXAMPLE)
    settings["databases"] = {"*": f"host={database.server.folder} user=cache"}
    ours = {"listen_addr": "", "unix_socket_dir": str(folder), "auth_type": "any"}
    settings["pgbouncer"].update(ours, default_pool_size=str(SERVER_CONNECTIONS))
    del settings["pgbouncer"]["auth_file"]
    with (folder / "pgbouncer.ini").open("w") as written:
        settings.write(written)
    command = guarded(["pgbouncer", str(folder / "pgbouncer.ini")])
    if os.geteuid() == 0:  # which it refuses to run as
        shutil.chown(folder, "postgres")
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = settings["pgbouncer"]["listen_port"]
    socket = folder / f".s.PGSQL.{port}"
    try:
        wait_until(lambda: socket.exists() or process.poll() is not None, "PgBouncer listens")
        yield f"postgresql://cache@/{database_of(database.url)}?host={folder}&port={port}"
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


@asynccontextmanager
async def nodes_at(url: str, count: int) -> AsyncIterator[list[SiteCatalogue]]:
    async with AsyncExitStack() as opened:
        nodes = []
        for _ in range(count):
            settings = CatalogueSettings(url, LEASE_S, call_s=60)
            nodes.append(await open_catalogue(settings, SystemClock(), FailingWork()))
            opened.push_async_callback(nodes[-1].close)
        yield nodes


async def test_many_nodes_share_few_connections_of_the_database(
    database: SiteDatabase, folder: Path
) -> None:
    with pooler(folder, database) as url:
        async with nodes_at(url, NODES) as nodes:
            blobs = [b"%d" % number for number in range(NODES)]
            await asyncio.gather(*(store(*pair) for pair in zip(nodes, blobs, strict=True)))
            found = await asyncio.gather(*(held(node, *blobs, use=Use.CLIENT) for node in nodes))
            assert all(all(each) for each in found)
            await until(
                lambda: sum(bool(node.leads.lead(SiteRole.UPKEEP)) for node in nodes) == 1,
                "one of them leads",
            )
            ((connections,),) = database.sql(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert 1 <= connections <= SERVER_CONNECTIONS


async def test_nodes_go_on_after_the_pooler_was_started_again(
    database: SiteDatabase, folder: Path
) -> None:
    with pooler(folder, database) as url:
        opening = nodes_at(url, 1)
        (node,) = await opening.__aenter__()
        await store(node, b"before")
    try:
        with pytest.raises(SourceUnavailable):
            await held(node, b"before", use=Use.CLIENT)
        with pooler(folder, database):
            await until(lambda: node.health()[0], "the database is found again")
            assert await held(node, b"before", use=Use.CLIENT) == [True]
    finally:
        await opening.__aexit__(None, None, None)
