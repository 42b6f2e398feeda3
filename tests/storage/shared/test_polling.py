"""How often a node asks the database what is new: in virtual time, on a simulated database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import pytest
from structlog.testing import capture_logs

from federation.core.errors import SourceUnavailable, StorageFull
from federation.core.tasks import FailingWork
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.leads import SiteLeads
from federation.storage.shared.catalogue.rows import LeadRow, SiteRole
from federation.storage.shared.catalogue.site_watch import SiteWatch, poll_pause_s, read_site
from tests.replication.virtual_time import VirtualClock, run
from tests.scale.costs import DATABASE, StatementCost
from tests.scale.database import SimulatedConnections, SimulatedDatabase

_T = TypeVar("_T")


class Polling:
    """One node that polls."""

    def __init__(self, poll_s: float = 0.0) -> None:
        self.database = SimulatedDatabase(DATABASE._replace(poll=StatementCost(poll_s)))
        self.connections = SimulatedConnections(self.database, 8)

    async def start(self) -> None:
        connections = cast(DatabaseConnections, self.connections)
        row = await read_site(connections)
        self.watch = SiteWatch(connections, VirtualClock(), row, random.Random(1))
        self.leads = SiteLeads(connections, self.watch, VirtualClock(), "node")
        self.watch.start(FailingWork())
        self.leads.start(FailingWork())
        await asyncio.sleep(2.0)

    async def leads_after(self) -> float:
        """Stand for a role, and return how many seconds it takes until the node leads."""
        begun_s = asyncio.get_running_loop().time()
        for _ in range(1000):
            if self.leads.lead(SiteRole.UPKEEP) is not None:
                break
            await asyncio.sleep(0.001)
        return asyncio.get_running_loop().time() - begun_s

    async def polls_within(self, seconds: float) -> int:
        before = self.database.statements["poll"]
        await asyncio.sleep(seconds)
        return self.database.statements["poll"] - before


def polling(test: Callable[[Polling], Awaitable[_T]], poll_s: float = 0.0) -> _T:
    async def work() -> _T:
        node = Polling(poll_s)
        await node.start()
        return await test(node)

    return run(work())


def test_a_node_that_waits_for_nothing_asks_about_twice_a_second() -> None:
    assert 20 <= polling(lambda node: node.polls_within(10.0)) <= 25


def test_a_row_of_the_log_is_noticed_within_a_tenth_of_a_second() -> None:
    async def test(node: Polling) -> float:
        waiting = asyncio.ensure_future(node.watch.wait_beyond(0, 60.0))
        await asyncio.sleep(5.0)
        node.database.store(1)
        begun_s = asyncio.get_running_loop().time()
        assert await waiting
        return asyncio.get_running_loop().time() - begun_s

    assert polling(test) <= 0.11 + 0.04  # the poll, and the look of who waits


def test_who_begins_to_wait_does_not_wait_for_the_end_of_a_long_pause() -> None:
    async def test(node: Polling) -> int:
        with node.watch.hurried():
            return await node.polls_within(0.1)

    assert 4 <= polling(test) <= 6


def test_calls_that_hurry_one_after_the_other_do_not_poll_without_a_pause() -> None:
    async def test(node: Polling) -> int:
        polls = asyncio.ensure_future(node.polls_within(1.0))
        for _ in range(1000):
            with node.watch.hurried():
                await asyncio.sleep(0.001)
        return await polls

    assert polling(test) <= 51


def test_a_slow_database_is_asked_less_often() -> None:
    assert polling(lambda node: node.polls_within(10.0), poll_s=0.2) <= 12


@pytest.mark.parametrize("took_s", [0.0, 0.01, 100.0])
def test_a_pause_never_hides_a_removal_for_longer_than_a_second(took_s: float) -> None:
    pauses_s = {poll_pause_s(0.5, took_s, random.Random(seed)) for seed in range(100)}
    assert 0.4 <= min(pauses_s) < max(pauses_s) <= 0.8
    assert len(pauses_s) > 90


def test_a_new_epoch_of_the_log_counts_as_a_removal() -> None:
    """Names that were found before an older database was put back may be gone."""

    async def test(node: Polling) -> bool:
        before = node.watch.presence()
        node.database.epoch = "another"
        await asyncio.sleep(1.0)
        return node.watch.presence() != before

    assert polling(test)


def test_a_new_epoch_of_the_log_gives_out_numbers_again() -> None:
    async def test(node: Polling) -> tuple[int, int]:
        node.watch.note_stored(10**6)
        before = node.watch.head()
        node.database.epoch = "another"
        await asyncio.sleep(1.0)
        return before, node.watch.head()

    before, after = polling(test)
    assert (before, after < before) == (10**6, True)


class OutdatedDatabase:
    """A database that was put back with an older schema, and whose disk is full."""

    trouble = ""

    async def ask_some(self, _statement: str) -> list[object]:
        raise SourceUnavailable("the site's database", "a table is missing")

    async def ask_one(self, statement: str) -> tuple[object, ...]:
        return (1, 1, "site") if "schema" in statement else (True,)

    async def run_script(self, _script: str) -> None:
        raise StorageFull("the disk is full")


def test_an_upgrade_that_finds_the_disk_full_ends_no_poll_and_is_told_of_once() -> None:
    async def test(node: Polling) -> list[str]:
        connections = cast(DatabaseConnections, OutdatedDatabase())
        row, jitter = node.watch.row, random.Random(1)
        watch = SiteWatch(connections, VirtualClock(), row, jitter, upgrades=True)
        with capture_logs() as logged:
            await watch.refresh()
            await watch.refresh()
        return [each["event"] for each in logged]

    assert polling(test) == ["site_not_polled", "site_not_upgraded"]


def test_a_role_is_taken_as_soon_as_somebody_wants_it() -> None:
    assert polling(lambda node: node.leads_after()) <= 0.1


def test_a_role_that_only_a_newer_version_knows_is_left_alone() -> None:
    async def test(node: Polling) -> object:
        node.database.leads["sweeping"] = LeadRow("sweeping", None, 0, 0)
        assert await node.leads_after() <= 0.1
        await asyncio.sleep(2.0)
        return node.database.leads["sweeping"].node

    assert polling(test) is None
