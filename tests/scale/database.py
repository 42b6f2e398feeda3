"""A PostgreSQL for the simulation: cores, the lock of the site, and a disk that is flushed.

It answers the statements of the parts of a node that are simulated, in virtual time, and counts
what they cost. It has no rows: each inserted blob is new, and a question finds what it names.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from federation.core.errors import SourceUnavailable
from federation.storage.shared.catalogue.connections import SOURCE
from federation.storage.shared.catalogue.database_connection import Statement
from federation.storage.shared.catalogue.opening import SCHEMA
from federation.storage.shared.catalogue.rows import LeadRow, SiteRole
from tests.scale.costs import DatabaseCosts, StatementCost

_LIFE = UUID(int=1)
_FUNCTION = re.compile(r"federation_(\w+)\(")
_Row = tuple[Any, ...]


def _length(array: bytes) -> int:
    """Return how many elements an array in PostgreSQL's binary format has."""
    return int.from_bytes(array[12:16])


class SimulatedDatabase:
    """One server, which all nodes of a site use. A method for each of its functions, and poll()."""

    def __init__(self, costs: DatabaseCosts) -> None:
        self.costs = costs
        self.statements: Counter[str] = Counter()
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.locked_s = 0.0  # for how long somebody had the lock of the site
        self._cores = asyncio.Semaphore(costs.cores)
        self._site = asyncio.Lock()
        self._disk = asyncio.Lock()
        self._written = self._durable = 0
        self.epoch = "epoch"
        self.leads = {role.value: LeadRow(role.value, None, 0, 0) for role in SiteRole}
        self._seq = 0

    def forget(self) -> None:
        """Count anew."""
        self.statements.clear()
        self.cpu_s.clear()
        self.locked_s = 0.0

    async def answer(self, statement: str, values: Sequence[Any] = ()) -> list[_Row]:
        """Run a statement of the product."""
        found = _FUNCTION.search(statement)
        name = found[1] if found else "poll"
        self.statements[name] += 1
        rows: list[_Row] = await getattr(self, name)(*values)
        return rows

    def store(self, count: int) -> int:
        """Give so many objects their numbers in the change log; return the last one."""
        self._seq += count
        return self._seq

    async def poll(self) -> list[_Row]:
        await self._use("poll", self.costs.poll)
        no_purges_nor_pins = (0, 0, SCHEMA, SCHEMA, 0)
        site = (self._seq, self.epoch, 0, None, 0, 0, 0, 0, 0, *no_purges_nor_pins)
        return [(*site, *lead) for lead in self.leads.values()]

    async def take_lead(self, role: str, node: str, seen: int) -> list[_Row]:
        await self._use("take_lead", self.costs.beat)
        if self.leads[role].term != seen:
            return [(None,)]
        self.leads[role] = LeadRow(role, node, seen + 1, 0)
        return [(seen + 1,)]

    async def beat(self, role: str, _term: int, _advance_ms: int) -> list[_Row]:
        await self._use("beat", self.costs.beat)
        lead = self.leads[role]
        self.leads[role] = lead._replace(beat=lead.beat + 1)
        return [(None,)]

    async def find(self, keys: bytes, _use: int, _granularity_ms: int) -> list[_Row]:
        count = _length(keys)
        await self._use("find", self.costs.find, count)
        return [([1] * count, None, _LIFE)]

    async def look_up(self, keys: bytes, *_: object) -> list[_Row]:
        await self._use("look_up", self.costs.look_up, _length(keys))
        return []

    async def entries(
        self, _kinds: bytes, _instances: bytes, names: bytes, *_: object
    ) -> list[_Row]:
        await self._use("entries", self.costs.entries, _length(names))
        return []

    async def insert_new(self, keys: bytes, *_: object) -> list[_Row]:
        count = _length(keys)
        await self._use("insert", self.costs.insert, count)
        async with self._site:
            begun_s = asyncio.get_running_loop().time()
            await self._use("insert", self.costs.insert_locked, count)
            newest = self.store(count)
            self.locked_s += asyncio.get_running_loop().time() - begun_s
        return [(newest, _LIFE)]

    async def flush(self, *_: object) -> list[_Row]:
        """One flush of the disk covers whatever was written when it began."""
        await self._use("flush", self.costs.flush)
        seq = self._seq
        self._written = mine = self._written + 1
        async with self._disk:
            if self._durable < mine:
                covered = self._written
                await asyncio.sleep(self.costs.disk_s)
                self._durable = covered
        return [(seq, _LIFE)]

    async def _use(self, name: str, cost: StatementCost, rows: int = 0) -> None:
        cpu_s = cost.of(rows)
        self.cpu_s[name] += cpu_s
        async with self._cores:
            await asyncio.sleep(cpu_s)


class SimulatedConnections:
    """What a node's parts take for its DatabaseConnections."""

    def __init__(self, database: SimulatedDatabase, most: int) -> None:
        self._database = database
        self._free = asyncio.Semaphore(most)
        self._loop = asyncio.Lock()  # the node's event loop has one core
        self._used = 0
        self.used_max = 0
        self.is_cut = False  # the node is cut off from the database, or dead

    async def ask(self, statement: str, *values: Any, twice: bool = True) -> list[_Row]:
        """See DatabaseConnections."""
        del twice
        (rows,) = await self._journey(Statement(statement, values))
        return rows

    async def ask_both(self, *both: Statement) -> Sequence[list[_Row]]:
        """See DatabaseConnections."""
        return await self._journey(*both)

    async def _journey(self, *statements: Statement) -> list[list[_Row]]:
        async with self._free:
            self._used += 1
            self.used_max = max(self.used_max, self._used)
            try:
                async with self._loop:
                    await asyncio.sleep(self._database.costs.node_s)
                await asyncio.sleep(self._database.costs.round_trip_s)
                if self.is_cut:
                    raise SourceUnavailable(SOURCE, "the node is cut off")
                return [await self._database.answer(*each) for each in statements]
            finally:
                self._used -= 1

    async def ask_one(self, statement: str, *values: Any, twice: bool = True) -> _Row:
        """See DatabaseConnections."""
        (row,) = await self.ask(statement, *values, twice=twice)
        return row

    ask_some = ask  # no table is ever empty
