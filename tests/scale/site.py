"""Nodes of one site in virtual time: the product's parts of a catalogue on a simulated database."""

from __future__ import annotations

import asyncio
import random
from typing import NamedTuple, cast

from federation.core.tasks import FailingWork
from federation.storage.shared.catalogue.blobs import SiteBlobs
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.entries import SiteIndex
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.insertions import Insertions
from federation.storage.shared.catalogue.leads import SiteLeads
from federation.storage.shared.catalogue.rows import SiteRole
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_watch import SiteWatch, read_site
from tests.replication.virtual_time import VirtualClock, run
from tests.scale.calls import CallRates, SiteCaller
from tests.scale.costs import DatabaseCosts
from tests.scale.database import SimulatedConnections, SimulatedDatabase

_SETTINGS = CatalogueSettings("postgresql://simulated", lease_s=3 * 3600.0)
_SETTLES_S = 2.0  # somebody leads then, and polls are spread
_GIVEN_UP_S = 30.0


class Load(NamedTuple):
    """What nodes did to the database within some seconds."""

    seconds: float
    statements: dict[str, int]
    cpu_s: float
    locked_s: float
    used_max: int  # connections of one node at the same time
    waits_s: list[float]  # of each write until it is durable, in order

    @property
    def statements_s(self) -> float:
        """Statements of all kinds a second."""
        return sum(self.statements.values()) / self.seconds

    def wait_s(self, share: float) -> float:
        """Return how long this share of the writes waited at most; 0 without writes."""
        return self.waits_s[int(share * (len(self.waits_s) - 1))] if self.waits_s else 0.0


class SimulatedNode:
    """The parts of a node that use the database. It stands for the upkeep, as every node does."""

    def __init__(self, database: SimulatedDatabase, name: str, rng: random.Random) -> None:
        self.simulated = SimulatedConnections(database, _SETTINGS.connections_max)
        self._name = name
        self._rng = rng

    async def open(self) -> None:
        """Start."""
        connections, clock = cast(DatabaseConnections, self.simulated), VirtualClock()
        flusher = CommitFlusher(connections)
        watch = SiteWatch(connections, clock, await read_site(connections), self._rng)
        self.leads = SiteLeads(connections, watch, clock, self._name)
        insertions = Insertions(connections, flusher, watch, _SETTINGS, clock)
        blobs = SiteBlobs(connections, flusher, insertions, _SETTINGS, clock)
        index = SiteIndex(connections, flusher, watch, insertions, _SETTINGS, clock, "site")
        self.caller = SiteCaller(blobs, index, self._rng)
        watch.start(FailingWork())
        self.leads.start(FailingWork())
        self.leads.lead(SiteRole.UPKEEP)

    @property
    def is_lead(self) -> bool:
        return self.leads.lead(SiteRole.UPKEEP) is not None


async def _opened(count: int, database: SimulatedDatabase, seed: int) -> list[SimulatedNode]:
    rng = random.Random(seed)
    nodes = [
        SimulatedNode(database, f"node-{number}", random.Random(rng.random()))
        for number in range(count)
    ]
    await asyncio.gather(*(node.open() for node in nodes))
    await asyncio.sleep(_SETTLES_S)
    database.forget()
    return nodes


def load_of(seed: int, nodes: int, rates: CallRates, seconds: float, costs: DatabaseCosts) -> Load:
    """Return what so many nodes do to the database while clients call at these rates."""

    async def work() -> Load:
        database, loop = SimulatedDatabase(costs), asyncio.get_running_loop()
        all_nodes = await _opened(nodes, database, seed)
        begun_s = loop.time()
        await asyncio.gather(*(node.caller.serve(rates, seconds) for node in all_nodes))
        await asyncio.sleep(max(0.0, begun_s + seconds - loop.time()))
        return Load(
            loop.time() - begun_s,
            dict(database.statements),
            sum(database.cpu_s.values()),
            database.locked_s,
            max(node.simulated.used_max for node in all_nodes),
            sorted(wait_s for node in all_nodes for wait_s in node.caller.waits_s),
        )

    return run(work())


def takeover(seed: int, nodes: int, costs: DatabaseCosts) -> tuple[float, int]:
    """Return for how many seconds nobody leads after the lead dies, and how many nodes tried."""

    async def work() -> tuple[float, int]:
        database, loop = SimulatedDatabase(costs), asyncio.get_running_loop()
        all_nodes = await _opened(nodes, database, seed)
        await asyncio.sleep(random.Random(seed).uniform(0.0, 1.0))
        (dead,) = [node for node in all_nodes if node.is_lead]
        dead.simulated.is_cut = True
        begun_s = loop.time()
        while not any(node.is_lead for node in all_nodes if node is not dead):
            assert loop.time() - begun_s < _GIVEN_UP_S, "nobody took over"
            await asyncio.sleep(0.01)
        took_s = loop.time() - begun_s
        await asyncio.sleep(1.0)  # who was slower has tried by then
        return took_s, database.statements["take_lead"]

    return run(work())
