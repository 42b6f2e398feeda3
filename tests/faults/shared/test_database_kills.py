"""kill -9 of PostgreSQL at any moment, with nodes that write: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from federation.core.errors import FederationError
from federation.core.index import Entry, EntryKey, EntryKind
from federation.storage.shared.catalogue.rows import Insertion
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from tests.storage.shared.site import SiteDatabase, held, leave_out_flushes, store
from tests.support.polling import until
from tests.support.postgres import postgres

pytestmark = [pytest.mark.servers, pytest.mark.heavy, pytest.mark.timeout(1800)]

ROUNDS = 100
WRITERS = 6
SEED = 5  # of when to kill; what the writers do until then differs each time
_MORE_MAX = 60  # acknowledged in a round, before the kill


class Writers:
    """Write through two nodes until these fail, and remember what was acknowledged."""

    def __init__(self, nodes: list[SiteCatalogue]) -> None:
        self._nodes = nodes
        self._count = 0
        self.blobs: list[bytes] = []
        self.entries: dict[EntryKey, bytes] = {}

    async def run_until(self, acknowledged: int) -> asyncio.Future[list[None]]:
        """Begin, and return once so many more blobs were acknowledged; the future ends with all."""
        wanted = len(self.blobs) + acknowledged
        running = asyncio.gather(*(self._write(n) for n in range(WRITERS)))
        await until(lambda: len(self.blobs) >= wanted or running.done(), "so many are stored")
        return running

    async def _write(self, number: int) -> None:
        node = self._nodes[number % len(self._nodes)]
        while True:
            self._count += 1
            data = b"blob %d" % self._count
            key = EntryKey(EntryKind.ASSET_BLOB, "main", b"name %d" % number)
            try:
                if await store(node, data) == [Insertion.STORED]:
                    self.blobs.append(data)
                await node.index.put([Entry(key, data, "urn")])
                self.entries[key] = data
            except FederationError:
                return  # the database is away


async def lost(nodes: list[SiteCatalogue], writers: Writers) -> list[bytes]:
    """Return what was acknowledged and is not held any more."""
    found = await held(nodes[0], *writers.blobs)
    keys = list(writers.entries)
    entries = await nodes[1].index.get(keys)
    gone = [data for data, is_held in zip(writers.blobs, found, strict=True) if not is_held]
    for key, entry in zip(keys, entries, strict=True):
        # A later value may have been stored without an acknowledgement.
        if entry is None or number_of(entry.value) < number_of(writers.entries[key]):
            gone.append(key.name)
    return gone


def number_of(data: bytes) -> int:
    return int(data.split()[-1])


async def rounds(count: int) -> list[bytes]:
    """Kill the database `count` times; return what was lost, after the first round with a loss."""
    rng = random.Random(SEED)
    with postgres() as server:
        database = SiteDatabase(server)
        async with database.node() as first, database.node() as second:
            writers = Writers([first, second])
            follower: list[int] = []
            for _ in range(count):
                running = await writers.run_until(rng.randrange(1, _MORE_MAX))
                rows, _ = await second.log.read(follower[-1] if follower else 0, 10**6)
                follower += [row.seq for row in rows]
                server.kill()
                await running
                server.start()
                await until(lambda: first.health()[0] and second.health()[0], "it is found again")
                if gone := await lost([first, second], writers):
                    return gone
                rows, is_whole = await first.log.read(follower[-1] if follower else 0, 10**6)
                follower += [row.seq for row in rows]
                assert is_whole
                assert follower == list(range(1, len(follower) + 1))
    return []


async def test_s05_nothing_acknowledged_is_lost_however_often_the_database_is_killed() -> None:
    assert await rounds(ROUNDS) == []


async def test_control_without_the_flush_a_kill_loses_what_was_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_out_flushes(monkeypatch)
    assert await rounds(ROUNDS)
