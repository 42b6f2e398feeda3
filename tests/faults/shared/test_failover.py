"""The database's machine is lost, and its synchronous standby takes over."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.digest import digest_of
from federation.core.uses import Use
from federation.storage.shared.catalogue.rows import Insertion
from tests.storage.shared.site import SiteDatabase, held, leading, store
from tests.support.polling import until
from tests.support.postgres import Postgres, postgres

pytestmark = pytest.mark.servers


def of_both(database: SiteDatabase, standby: Postgres) -> None:
    """Have nodes look for the primary among both servers, as an operator's URL does."""
    database.url = f"{database.url},{standby.folder}"


async def test_a_failover_loses_nothing_that_was_acknowledged_and_pauses_eviction() -> None:
    with postgres() as primary, postgres(primary) as standby:
        database = SiteDatabase(primary)
        of_both(database, standby)
        async with database.node() as node, database.node() as other:
            blobs = [b"%d" % n for n in range(50)]
            outcomes = await asyncio.gather(*(store(node, data) for data in blobs))
            assert outcomes == [[Insertion.STORED]] * 50
            (life,) = await node.connections.ask_one("SELECT federation_incarnation()")
            primary.kill()
            standby.promote()
            standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
            standby.sql("SELECT pg_reload_conf()")
            database.server = standby
            await until(lambda: node.health()[0] and other.health()[0], "the new primary is found")
            await until(lambda: node.watch.head() == 50, "the log is there")
            assert all(await held(other, *blobs, use=Use.CLIENT))
            assert await node.connections.ask_one("SELECT federation_incarnation()") != (life,)
            database.age(digest_of(b"0"))
            evicted = await node.work.evict(await leading(node), 2**40)
            assert (evicted.blobs, evicted.is_paused) == (0, True)
            assert await store(other, b"after") == [Insertion.STORED]
            assert [row.seq for row in (await node.log.read(50, 10)).rows] == [51]
