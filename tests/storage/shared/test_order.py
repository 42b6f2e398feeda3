"""Rows of the change log become visible in the order of their numbers: a follower misses none."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.digest import digest_of
from federation.core.errors import StorageFailed
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from tests.storage.shared.site import SiteDatabase, numbers_of, store
from tests.support.polling import until

pytestmark = pytest.mark.servers

SLOW, QUICK = b"slow", b"quick"
# Has the transaction that logs SLOW wait, with its number taken, for whoever holds lock 7.
_WAIT = f"""
CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.name = '\\x{key_of(digest_of(SLOW)).hex()}' THEN
    PERFORM pg_advisory_xact_lock(7);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER wait_for_test BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION wait_for_test();
"""


class Follower:
    """Reads the log as a peer's sender does: always after the last row that it has seen."""

    def __init__(self, node: SiteCatalogue) -> None:
        self._node = node
        self.seen: list[int] = []

    async def read(self) -> None:
        rows, _ = await self._node.log.read(self.seen[-1] if self.seen else 0, 1000)
        self.seen += numbers_of(rows)


async def write_both(database: SiteDatabase, slow: SiteCatalogue, quick: SiteCatalogue) -> Follower:
    """Write SLOW and, while its transaction waits, QUICK; a follower reads meanwhile and after."""
    database.sql(_WAIT)
    follower = Follower(quick)
    with database.locked():
        writing = [asyncio.ensure_future(store(slow, SLOW))]
        await until(lambda: database.blocked() == 1, "the slow one waits")
        writing.append(asyncio.ensure_future(store(quick, QUICK)))
        await until(
            lambda: database.blocked() == 2 or writing[1].done(),
            "the quick one waits behind it, or is through",
        )
        await follower.read()
    await asyncio.gather(*writing)
    await follower.read()
    return follower


async def test_a_number_is_not_overtaken_by_a_later_one(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        follower = await write_both(database, first, second)
        assert follower.seen == [1, 2]


async def test_control_with_a_sequence_a_follower_misses_a_row(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        ((source,),) = database.sql("SELECT pg_get_functiondef('federation_insert'::regproc)")
        ((quick,),) = database.sql("SELECT pg_get_functiondef('federation_insert_new'::regproc)")
        never = quick.replace("IF FOUND THEN", "IF true THEN")
        unlocked = source.replace("FROM site FOR UPDATE", "FROM site")
        drawn = unlocked.replace(
            "before.seq + row_number() OVER w AS seq", "nextval('numbers') AS seq"
        )
        counted = drawn.replace("UPDATE site SET seq = newest,", "UPDATE site SET seq = seq,")
        assert len({quick, never, source, unlocked, drawn, counted}) == 6
        database.sql(f"CREATE SEQUENCE numbers; {never}; {counted}")
        follower = await write_both(database, first, second)
        assert follower.seen == [2]


async def test_a_node_that_is_cut_off_in_the_middle_says_that_nothing_is_certain(
    database: SiteDatabase,
) -> None:
    async with database.node(call_s=3) as node:
        database.sql(_WAIT)
        with database.locked(), pytest.raises(StorageFailed, match="certain"):
            await store(node, SLOW)
