"""Measures what statements and rows cost on a real PostgreSQL.

CPU of the database is that of one backend, as the kernel counts it, so that other work on the
machine changes little. Calls come one by one, with a pause after each: without, the processor has
all that a call needs in its caches, which halves the cost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from federation.core.clock import SystemClock
from federation.core.digest import HASH_BYTES, Digest
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.tasks import FailingWork
from federation.core.uses import Use
from federation.storage.shared.catalogue.rows import NewBlob
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from federation.storage.shared.catalogue.site_watch import read_site
from tests.scale.costs import DatabaseCosts, RowBytes, StatementCost
from tests.support.postgres import Postgres, database_of

_MANY = 1000
_PAUSE_S = 0.02
_BLOB_BYTES, _VALUE_BYTES = 512, 300
_BYTES = """
SELECT pg_total_relation_size('blob')::float8 / (SELECT count(*) FROM blob),
  pg_total_relation_size('small')::float8 / (SELECT count(*) FROM small),
  pg_total_relation_size('log')::float8 / (SELECT count(*) FROM log),
  pg_total_relation_size('entry')::float8 / (SELECT count(*) FROM entry)
"""


class Measured(NamedTuple):
    """What was measured."""

    costs: DatabaseCosts
    rows: RowBytes


class _Meter:
    """CPU of one backend, and of this process."""

    def __init__(self, pid: int, rounds: int) -> None:
        self.pid = pid
        self.rounds = rounds
        self.node_s = 0.0  # of this process, for each of the last calls

    async def cost(self, call: Callable[[], Awaitable[object]]) -> float:
        """Return the CPU of the database for one call, in seconds."""
        for _ in range(10):  # it is planned, and prepared
            await call()
        before_s, node_s = cpu_s([self.pid]), time.process_time()
        for _ in range(self.rounds):
            await call()
            await asyncio.sleep(_PAUSE_S)
        self.node_s = (time.process_time() - node_s) / self.rounds
        return (cpu_s([self.pid]) - before_s) / self.rounds

    async def line(self, call: Callable[[int], Awaitable[object]]) -> StatementCost:
        """Return the costs of a call with any number of rows, from those with 1 and with _MANY."""
        one_s = await self.cost(lambda: call(1))
        row_s = max(0.0, await self.cost(lambda: call(_MANY)) - one_s) / (_MANY - 1)
        return StatementCost(max(0.0, one_s - row_s), row_s)


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU that processes have used, in seconds."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) * 1e-9


async def open_real(url: str, connections: int) -> SiteCatalogue:
    """Open a node's catalogue on a real database."""
    settings = CatalogueSettings(url, 3 * 3600.0, connections_max=connections, call_s=60)
    return await open_catalogue(settings, SystemClock(), FailingWork())


def _blobs(rng: random.Random, count: int) -> list[NewBlob]:
    return [
        NewBlob(Digest(rng.randbytes(HASH_BYTES), _BLOB_BYTES), bytes(_BLOB_BYTES))
        for _ in range(count)
    ]


def _entries(rng: random.Random, count: int) -> list[Entry]:
    keys = [EntryKey(EntryKind.ACTION_RESULT, "", rng.randbytes(HASH_BYTES)) for _ in range(count)]
    return [Entry(key, bytes(_VALUE_BYTES), "") for key in keys]


async def measure(server: Postgres, rounds: int, rows: int) -> Measured:
    """Measure on a new database with so many blobs."""
    url, rng = server.new_database(), random.Random(1)
    node = await open_real(url, 1)
    try:
        for _ in range(0, rows, _MANY):
            await node.blobs.insert(_blobs(rng, _MANY))
        entries = _entries(rng, 2 * _MANY)
        await node.index.put(entries)
        server.sql("VACUUM ANALYZE", database_of(url))
        row_bytes = await _bytes(node)
        await node.watch.close()  # the only connection is for what is measured
        (pid,) = await node.connections.ask_one("SELECT pg_backend_pid()")
        keys = [entry.key for entry in entries]
        return Measured(await _costs(node, _Meter(pid, rounds), rng, keys), row_bytes)
    finally:
        await node.close()
        server.drop_database(url)


async def _bytes(node: SiteCatalogue) -> RowBytes:
    """Return what rows take of a catalogue from which none was removed."""
    blob, small, log, entry = await node.connections.ask_one(_BYTES)
    return RowBytes(round(blob), round(small) - _BLOB_BYTES, round(log), round(entry))


async def _costs(
    node: SiteCatalogue, meter: _Meter, rng: random.Random, names: Sequence[EntryKey]
) -> DatabaseCosts:
    held = [key for key, _ in await node.blobs.walk(b"", _MANY)]
    poll_s = await meter.cost(lambda: read_site(node.connections))
    node_s = meter.node_s
    flush_s = await meter.cost(lambda: node.connections.ask("SELECT federation_flush()"))
    find = await meter.line(lambda n: node.blobs.find(held[:n], Use.CLIENT))
    insert = await meter.line(lambda n: node.blobs.insert(_blobs(rng, n)))
    return DatabaseCosts(
        poll=StatementCost(poll_s),
        beat=StatementCost(poll_s),
        find=find,
        look_up=await meter.line(
            lambda n: node.blobs.look_up(held[:n], Use.CLIENT, with_bytes=True)
        ),
        entries=await meter.line(lambda n: node.index.rows(names[:n], Use.CLIENT)),
        insert=find,  # before it takes the lock, it looks up to 32 keys up
        insert_locked=StatementCost(
            max(0.0, insert.base_s - find.base_s - flush_s), insert.row_s - find.row_s
        ),
        flush=StatementCost(flush_s),
        evict=await _eviction(node, meter),
        node_s=node_s,
        cores=2,
        disk_s=0.0,  # the database of tests is in memory
        round_trip_s=50e-6,
    )


async def _eviction(node: SiteCatalogue, meter: _Meter) -> StatementCost:
    """Return what a step of eviction costs, and each row that it removes."""
    nothing_s = await meter.cost(lambda: node.work.evict(None, 2**40))
    await node.connections.ask("UPDATE blob SET accessed = 0, era = 0")
    await node.connections.ask("VACUUM blob")
    before_s, rows, steps = cpu_s([meter.pid]), 0, 0
    while done := (await node.work.evict(None, 2**40)).blobs:
        rows, steps = rows + done, steps + 1
    return StatementCost(nothing_s, (cpu_s([meter.pid]) - before_s - steps * nothing_s) / rows)
