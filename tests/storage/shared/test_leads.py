"""One node leads at a time; a stopped one is overtaken, and fenced when it wakes."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from federation.core.errors import LeadLost
from federation.core.replication_log import PeerRecord
from federation.storage.shared.catalogue.rows import SiteRole
from tests.storage.shared.site import SiteDatabase, leading, log_of
from tests.support.polling import until

pytestmark = pytest.mark.servers

# A node that leads, says so, and, when a line comes, tries to write as the lead.
_LEAD = """
import asyncio, sys
from federation.core.clock import SystemClock
from federation.core.errors import LeadLost
from federation.core.replication_log import PeerRecord
from federation.core.tasks import FailingWork
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import open_catalogue
from tests.storage.shared.site import log_of

async def main():
    settings = CatalogueSettings(sys.argv[1], lease_s=60, connections_max=2)
    node = await open_catalogue(settings, SystemClock(), FailingWork())
    log = log_of(node)
    while not log.try_to_lead():
        await asyncio.sleep(0.01)
    print("leads", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await log.save([PeerRecord("from the stopped one")])
        print("saved", flush=True)
    except LeadLost:
        print("lost", flush=True)
    await node.close()

asyncio.run(main())
"""


async def _said(process: Process, *words: str) -> str:
    """Return the first line that is one of these; others are logs."""
    assert process.stdout is not None
    while True:
        line = (await process.stdout.readline()).decode()
        assert line, "the process has ended"
        if line.strip() in words:
            return line.strip()


async def test_a_stopped_lead_is_overtaken_and_fenced_when_it_wakes(database: SiteDatabase) -> None:
    async with database.node() as node:
        log = log_of(node)
        run = (sys.executable, "-c", _LEAD, database.url)
        other = await asyncio.create_subprocess_exec(*run, stdin=PIPE, stdout=PIPE)
        try:
            assert await _said(other, "leads", "lost") == "leads"
            assert not log.try_to_lead()
            other.send_signal(signal.SIGSTOP)
            await until(log.try_to_lead, "the silent one is overtaken")
            other.send_signal(signal.SIGCONT)
            assert other.stdin is not None
            other.stdin.write(b"write\n")
            assert await _said(other, "saved", "lost") == "lost"
        finally:
            other.kill()
            await other.wait()
        await log.save([PeerRecord("tokyo")])
        assert [record.name for record in await log.peers()] == ["tokyo"]


async def test_the_clock_of_the_site_advances_with_the_lead_of_the_upkeep_only(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await leading(node, SiteRole.REPLICATION)
        ((begun, beat),) = database.sql(
            "SELECT now_ms, beat FROM clock, lead WHERE role = 'replication'"
        )
        await until(
            lambda: database.sql("SELECT beat FROM lead WHERE role = 'replication'")[0][0] > beat,
            "the lead beats",
        )
        assert database.sql("SELECT now_ms FROM clock") == [(begun,)]
        await leading(node, SiteRole.UPKEEP)
        await until(lambda: database.sql("SELECT now_ms FROM clock")[0][0] > begun, "time passes")


async def test_a_role_that_is_left_is_taken_by_the_next(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        term = (await leading(first)).term
        assert second.leads.lead(SiteRole.UPKEEP) is None
        first.leads.resign(SiteRole.UPKEEP)
        assert (await leading(second)).term == term + 1


async def test_a_node_that_stops_in_order_leaves_its_roles_to_others(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        log = log_of(node)
        await until(log.try_to_lead, "the node leads")
        await leading(node)
        log.close()
    assert database.sql("SELECT role FROM lead WHERE node IS NOT NULL") == []


async def test_what_is_written_after_the_lead_was_left_is_refused(database: SiteDatabase) -> None:
    async with database.node() as node:
        log = log_of(node)
        await until(log.try_to_lead, "the node leads")
        log.close()
        await until(
            lambda: database.sql("SELECT node FROM lead WHERE role = 'replication'") == [(None,)],
            "the role is free",
        )
        for write in (log.save([PeerRecord("tokyo")]), log.park([]), log.unpark([])):
            with pytest.raises(LeadLost):
                await write
        assert await log.peers() == []


async def test_a_node_that_cannot_beat_does_not_take_itself_for_the_lead(
    database: SiteDatabase,
) -> None:
    async with database.node(call_s=3) as node:
        await leading(node)
        database.server.pause()
        try:
            await until(lambda: node.leads.lead(SiteRole.UPKEEP) is None, "it gives itself up")
        finally:
            database.server.resume()
        await leading(node)
