"""Two statements in one journey to the database: both are asked, and each ends by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.core.clock import SystemClock
from federation.core.errors import InvalidRequest
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.database_connection import Statement
from federation.storage.shared.catalogue.flusher import _FLUSH_NEW, CommitFlusher
from federation.storage.shared.catalogue.rows import Insertion
from tests.storage.shared.site import SiteDatabase, store

pytestmark = pytest.mark.servers

XACT = Statement("SELECT pg_current_xact_id()::text")
PID = "SELECT pg_backend_pid()"
REFUSE = Statement("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'FDR01'; END $$")


@pytest.fixture
async def connections(database: SiteDatabase) -> AsyncIterator[DatabaseConnections]:
    opened = DatabaseConnections(database.url, SystemClock(), most=1, call_s=60)
    yield opened
    await opened.close()


async def test_each_is_a_transaction_of_its_own(connections: DatabaseConnections) -> None:
    """The first one's locks are not held while the second waits for the disk."""
    ((first,),), ((second,),) = await connections.ask_both(XACT, XACT)
    assert int(first) < int(second)


async def test_the_second_runs_whatever_becomes_of_the_first(
    database: SiteDatabase, connections: DatabaseConnections
) -> None:
    database.sql("CREATE SEQUENCE asked")
    before = await connections.ask_one(PID)
    with pytest.raises(InvalidRequest, match="no"):
        await connections.ask_both(REFUSE, Statement("SELECT nextval('asked')"))
    with pytest.raises(InvalidRequest, match="no"):
        await connections.ask_both(Statement("SELECT nextval('asked')"), REFUSE)
    assert await connections.ask("SELECT nextval('asked'), pg_backend_pid()") == [(3, *before)]


@pytest.mark.parametrize("size_bytes", [10, 2**25])
async def test_arguments_of_any_size_arrive(
    connections: DatabaseConnections, size_bytes: int
) -> None:
    """psycopg's own pipeline mode hangs on large ones."""
    many = arrays.blobs([bytes(size_bytes)] * 2)
    size = Statement("SELECT length(($1)[1]), length(($1)[2])", [many])
    assert await connections.ask_both(size, size) == ([(size_bytes, size_bytes)],) * 2


@pytest.mark.parametrize("lost_in", [0, 1])
async def test_both_are_run_once_more_where_the_connection_is_lost(
    database: SiteDatabase, connections: DatabaseConnections, lost_in: int
) -> None:
    database.sql("CREATE SEQUENCE tries")
    before = await connections.ask_one(PID)
    both = [Statement("SELECT 1")] * 2
    both[lost_in] = Statement(
        "SELECT CASE WHEN nextval('tries') = 1 THEN pg_terminate_backend(pg_backend_pid()) END"
    )
    await connections.ask_both(*both)
    assert await connections.ask_one("SELECT last_value FROM tries") == (2,)
    assert await connections.ask_one(PID) != before


async def test_a_small_write_takes_one_journey(
    database: SiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.node() as node:
        await store(node, b"1")
        asked: list[Statement] = []
        ask_both = node.connections.ask_both

        async def noted(*both: Statement) -> object:
            asked.extend(both)
            return await ask_both(*both)

        async def alone(*_: object, **__: object) -> object:
            raise AssertionError("another journey")

        with monkeypatch.context() as patch:
            patch.setattr(DatabaseConnections, "ask_both", lambda _, *both: noted(*both))
            patch.setattr(DatabaseConnections, "ask", alone)
            assert await store(node, b"2") == [Insertion.STORED]
        assert [each.text for each in asked][1:] == [_FLUSH_NEW]


async def test_what_is_flushed_already_is_not_flushed_again(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"1", b"2")
        assert await node.connections.ask(_FLUSH_NEW, 2) == []
        explained = await node.connections.ask(
            f"EXPLAIN (ANALYZE, COSTS OFF) {_FLUSH_NEW.replace('$1', '2')}"
        )
        (scan,) = [line for (line,) in explained if "federation_flush" in line]
        assert "never executed" in scan, explained
        flusher = CommitFlusher(node.connections)
        for _ in range(2):
            row = await flusher.flush_behind(Statement("SELECT $1", [b"row"]))
            assert row == (b"row",)
        assert "seq=2" in repr(flusher)
