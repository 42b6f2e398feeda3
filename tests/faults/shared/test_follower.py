"""A follower of a site's log, beside writers on several nodes."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.digest import Digest, digest_of
from federation.storage.shared.catalogue.rows import Insertion
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from tests.storage.shared.site import SiteDatabase, store
from tests.support.postgres import Postgres

pytestmark = pytest.mark.servers

WRITERS = 8
AT_ONCE = 50  # blobs of one upload


class LogFollower:
    """Reads the log as a peer's sender does, always after the last row that it has seen."""

    def __init__(self, node: SiteCatalogue) -> None:
        self._node = node
        self.last = 0
        self.seen: set[Digest] = set()
        self.reads = 0

    async def read(self) -> None:
        rows, is_whole = await self._node.log.read(self.last, 1000)
        assert is_whole, f"rows after {self.last} are missing"
        self.reads += bool(rows)
        for row in rows:
            assert row.seq == self.last + 1, f"{row.seq} follows {self.last}"
            assert row.digest is not None
            self.last = row.seq
            self.seen.add(row.digest)

    async def run_until(self, row: int) -> None:
        while self.last < row:
            await self.read()


async def write(node: SiteCatalogue, writer: int, uploads: int) -> None:
    for upload in range(uploads):
        blobs = [b"%d %d %d" % (writer, upload, number) for number in range(AT_ONCE)]
        assert await store(node, *blobs) == [Insertion.STORED] * AT_ONCE


@pytest.mark.parametrize(
    "rows",
    [
        4_000,
        pytest.param(1_000_000, marks=[pytest.mark.heavy, pytest.mark.timeout(3600)]),
    ],
)
async def test_d14_a_follower_beside_8_writers_on_4_nodes_misses_no_row(
    postgres_server: Postgres, rows: int
) -> None:
    uploads = rows // WRITERS // AT_ONCE
    database = SiteDatabase(postgres_server)
    async with (
        database.node() as one,
        database.node() as two,
        database.node() as three,
        database.node() as four,
    ):
        nodes = (one, two, three, four)
        follower = LogFollower(four)
        await asyncio.gather(
            follower.run_until(rows),
            *(write(nodes[writer % 4], writer, uploads) for writer in range(WRITERS)),
        )
        assert follower.reads > rows // 1000, "it read beside the writers, not behind them"
        assert len(follower.seen) == follower.last == rows
        assert digest_of(b"7 0 0") in follower.seen
    database.drop()
