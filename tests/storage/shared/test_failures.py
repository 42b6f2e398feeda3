"""A database that is away, slow, full or refuses: what is said then, and how soon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from structlog.testing import capture_logs

from federation.core.clock import ManualClock, SystemClock
from federation.core.digest import digest_of
from federation.core.errors import (
    FederationError,
    SourceUnavailable,
    StorageFailed,
    StorageFull,
    StorageRefused,
)
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.tasks import FailingWork
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.opening import open_site
from federation.storage.shared.catalogue.pin_records import PinWork, SitePinRecords
from federation.storage.shared.catalogue.rows import Insertion
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue, open_catalogue
from federation.storage.shared.catalogue.site_watch import read_site
from tests.storage.shared.site import SiteDatabase, held, store
from tests.support.polling import until

pytestmark = pytest.mark.servers

ENTRY = Entry(EntryKey(EntryKind.ASSET_BLOB, "main", b"name"), b"value", "urn:name")
FAIL = """
CREATE FUNCTION fail_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'for a test' USING ERRCODE = '{state}';
END $$;
CREATE TRIGGER fail_for_test BEFORE INSERT ON log EXECUTE FUNCTION fail_for_test();
"""


FAIL_TWICE = FAIL.format(state="40P01").replace(
    "BEGIN", "BEGIN IF nextval('tries') = 3 THEN RETURN NULL; END IF;"
)


async def refusals(node: SiteCatalogue) -> list[type]:
    """Ask for everything, and return how each question was refused."""
    keys = [key_of(digest_of(b"1"))]
    asked: Sequence[object] = await asyncio.gather(
        node.blobs.find(keys, Use.CLIENT),
        node.blobs.look_up(keys, Use.CLIENT, with_bytes=True),
        node.index.get([ENTRY.key]),
        node.log.read(0, 10),
        store(node, b"2"),
        node.index.put([ENTRY]),
        return_exceptions=True,
    )
    return [type(each) for each in asked]


async def test_clients_are_not_told_where_the_database_is(database: SiteDatabase) -> None:
    where = str(database.server.folder)
    async with database.node() as node:
        database.server.kill()
        try:
            told = [str(await refused(node)) for _ in range(5)]
            assert not [each for each in told if where in each]
            assert where in node.health()[1], "the operator is told"
        finally:
            database.server.start()


async def refused(node: SiteCatalogue) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as refusal:
        await held(node, b"1")
    return refusal.value


async def test_a_database_that_is_away_is_silence_and_never_a_miss(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"1")
        database.server.kill()
        try:
            assert await refusals(node) == [SourceUnavailable] * 4 + [StorageFailed] * 2
            is_well, reason = node.health()
            assert not is_well
            assert "database" in reason
        finally:
            database.server.start()
        await until(lambda: node.health()[0], "the database is found again")
        assert await held(node, b"1", use=Use.CLIENT) == [True]


async def test_d07_of_tables_that_a_dump_has_not_filled_yet_nothing_is_said_to_be_missing(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, b"1")
        database.sql("TRUNCATE blob, small, log, clock, site, lead, pinned")
        with pytest.raises(SourceUnavailable, match="being restored"):
            await held(node, b"1", use=Use.CLIENT)
        with pytest.raises(StorageFailed):
            await store(node, b"2")
        with pytest.raises(SourceUnavailable, match="being restored"):
            await read_site(node.connections)
        with pytest.raises(SourceUnavailable, match="being restored"):
            await node.log.read(0, 10)
        with pytest.raises(SourceUnavailable, match="being restored"):
            await SitePinRecords(
                node.connections, node.settings, SystemClock(), PinWork()
            ).followed()
        with pytest.raises(StorageRefused, match="being restored"):
            await open_site(node.connections, may_create=False)


async def test_d07_a_flush_before_a_dump_has_filled_the_last_table_spoils_no_later_one(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, b"1")
        database.sql("CREATE TABLE dumped AS SELECT * FROM site; DELETE FROM site")
        database.sql("DELETE FROM incarnation")  # the dump has the token of another life
        with pytest.raises(SourceUnavailable, match="being restored"):
            await held(node, b"1", use=Use.CLIENT)
        database.sql("INSERT INTO site SELECT * FROM dumped")
        assert await held(node, b"1", use=Use.CLIENT) == [True]
        assert await store(node, b"2") == [Insertion.STORED]


async def test_while_it_is_known_to_be_away_nobody_waits(database: SiteDatabase) -> None:
    clock = ManualClock()  # no probe is due
    connections = DatabaseConnections(database.url, clock, most=2, call_s=60)
    assert await connections.ask("SELECT 1") == [(1,)]
    database.server.pause()  # whoever tried would wait for an answer
    try:
        async with asyncio.timeout(60):
            connections._failed("its host is gone", "cut off")
            for _ in range(100):
                with pytest.raises(SourceUnavailable, match="cut off"):
                    await connections.ask("SELECT 1")
    finally:
        database.server.resume()
    clock.advance(10)
    assert await connections.ask("SELECT 1") == [(1,)]
    assert not connections.trouble
    await connections.close()


async def test_a_probe_that_the_database_answers_with_an_error_ends_the_doubt(
    database: SiteDatabase,
) -> None:
    clock = ManualClock()
    connections = DatabaseConnections(database.url, clock, most=1, call_s=60)
    connections._failed("its host is gone", "cut off")
    clock.advance(10)
    with pytest.raises(SourceUnavailable, match="division"):
        await connections.ask("SELECT 1 / 0")
    assert not connections.trouble
    await connections.close()


async def test_a_database_that_stands_still_is_given_up_at_the_time_limit(
    database: SiteDatabase,
) -> None:
    async with database.node(call_s=3) as node:
        await store(node, b"1")
        database.server.pause()
        try:
            assert await refusals(node) == [SourceUnavailable] * 4 + [StorageFailed] * 2
            assert not node.health()[0]
        finally:
            database.server.resume()
        await until(lambda: node.health()[0], "the database is found again")
        assert await held(node, b"1") == [True]


async def test_a_statement_that_takes_too_long_does_not_count_as_a_database_that_is_away(
    database: SiteDatabase,
) -> None:
    connections = DatabaseConnections(database.url, SystemClock(), most=1, call_s=5.0)
    with pytest.raises(SourceUnavailable, match="timeout"):
        await connections.ask("SELECT pg_sleep(60)")
    assert not connections.trouble
    await connections.close()


async def test_a_lost_connection_is_replaced_without_notice(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"1")
        database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                     "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
        assert await held(node, b"1", use=Use.CLIENT) == [True]


async def test_a_caller_that_leaves_does_not_cost_a_connection(database: SiteDatabase) -> None:
    connections = DatabaseConnections(database.url, SystemClock(), most=1, call_s=60)
    (before,) = await connections.ask_one("SELECT pg_backend_pid()")
    with database.locked():
        leaving = asyncio.ensure_future(connections.ask("SELECT pg_advisory_xact_lock(7)"))
        await until(database.blocked, "it is asked")
        leaving.cancel()
    assert await connections.ask_one("SELECT pg_backend_pid()") == (before,)
    await connections.close()


async def test_connections_are_bounded_and_calls_wait_their_turn(database: SiteDatabase) -> None:
    connections = DatabaseConnections(database.url, SystemClock(), most=3, call_s=60)
    rows = await asyncio.gather(
        *(connections.ask_one("SELECT pg_backend_pid()") for _ in range(50))
    )
    assert 1 <= len(set(rows)) <= 3
    await connections.close()


async def test_statements_that_a_connection_keeps_are_bounded(database: SiteDatabase) -> None:
    connections = DatabaseConnections(database.url, SystemClock(), most=1, call_s=60)
    for number in range(210):
        assert await connections.ask_one(f"SELECT {number}, $1", b"data") == (number, b"data")
    (kept,) = await connections.ask_one("SELECT count(*) FROM pg_prepared_statements")
    assert kept == 200
    await connections.close()


async def test_a_call_that_waits_and_was_overtaken_stays_the_first(database: SiteDatabase) -> None:
    connections = DatabaseConnections(database.url, SystemClock(), most=1, call_s=60)
    only = await connections._take()
    first, second = (asyncio.ensure_future(connections._take()) for _ in range(2))
    await until(lambda: "2 waiting" in repr(connections), "both wait")
    connections._give_back(only)
    only = await connections._take()  # before the first one was run
    await until(lambda: "2 waiting" in repr(connections), "both wait again")
    connections._give_back(only)
    connections._give_back(await first)
    connections._give_back(await second)
    await connections.close()


async def test_a_server_without_room_for_more_connections_is_not_taken_to_be_away(
    database: SiteDatabase,
) -> None:
    database.sql("CREATE ROLE few LOGIN CONNECTION LIMIT 2")
    url = database.url.replace("cache@", "few@")
    connections = DatabaseConnections(url, SystemClock(), most=8, call_s=60)
    try:
        with capture_logs() as logs:
            rows = await asyncio.gather(
                *(connections.ask_one("SELECT pg_backend_pid(), pg_sleep(0.01)") for _ in range(50))
            )
        assert "catalogue_connection_refused" in [each["event"] for each in logs]
        assert 1 <= len({pid for pid, _ in rows}) <= 2
        assert not connections.trouble
    finally:
        await connections.close()
        database.sql("DROP ROLE few")


async def test_connections_that_nobody_needs_are_closed(database: SiteDatabase) -> None:
    clock = ManualClock()
    connections = DatabaseConnections(database.url, clock, most=3, call_s=60)
    await asyncio.gather(*(connections.ask("SELECT pg_sleep(0.2)") for _ in range(3)))
    assert "3 open, 3 idle" in repr(connections)
    clock.advance(61)
    for _ in range(3):
        assert await connections.ask("SELECT 1") == [(1,)]
    assert "1 open, 1 idle" in repr(connections)
    await connections.close()


@pytest.mark.parametrize(
    ("state", "kind"),
    [("53100", StorageFull), ("XX000", StorageFailed), ("53200", StorageFailed)],
)
async def test_a_refusal_of_the_database_stores_nothing(
    database: SiteDatabase, state: str, kind: type[FederationError]
) -> None:
    async with database.node() as node:
        database.sql(FAIL.format(state=state))
        with pytest.raises(kind):
            await store(node, b"1")
        with pytest.raises(kind):
            await node.index.put([ENTRY])
        assert await held(node, b"1") == [False]
        assert node.health()[0]


async def test_a_conflict_is_tried_again(database: SiteDatabase) -> None:
    async with database.node() as node:
        database.sql("CREATE SEQUENCE tries;" + FAIL_TWICE)
        await store(node, b"1")
        assert database.sql("SELECT last_value FROM tries") == [(3,)]


async def test_no_password_is_in_errors_and_reprs(database: SiteDatabase) -> None:
    del database
    secret = "hunter2"
    broken = f"postgresql://cache:{secret}@[host/db"
    with pytest.raises(StorageRefused) as refused:
        DatabaseConnections(broken, SystemClock(), most=1, call_s=1)
    away = f"postgresql://cache:{secret}@/db?host=/nonexistent"
    settings = CatalogueSettings(away, lease_s=1)
    with pytest.raises(StorageRefused, match="needs it to start") as failed:
        await open_catalogue(settings, SystemClock(), FailingWork())
    connections = DatabaseConnections(away, SystemClock(), most=1, call_s=1)
    texts = [str(refused.value), repr(refused.value.__context__), str(failed.value), repr(settings),
             repr(connections)]  # fmt: skip
    assert not any(secret in text for text in texts)


async def test_two_nodes_that_start_on_an_empty_database_make_one_site(
    database: SiteDatabase,
) -> None:
    async def start() -> str:
        async with database.node() as node:
            return node.site_id

    assert len(set(await asyncio.gather(start(), start(), start()))) == 1
    assert database.sql("SELECT count(*) FROM site") == [(1,)]


async def test_a_database_in_another_encoding_is_refused(database: SiteDatabase) -> None:
    database.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        settings = CatalogueSettings(database.server.url("latin"), lease_s=1)
        with pytest.raises(StorageRefused, match="LATIN1"):
            await open_catalogue(settings, SystemClock(), FailingWork())
    finally:
        database.sql("DROP DATABASE latin")


async def test_a_database_that_may_only_be_read_is_no_source(database: SiteDatabase) -> None:
    """Such as a standby, or a primary that was demoted: another server is the primary."""
    async with database.node() as node:
        await store(node, b"1")
        name = database.sql("SELECT current_database()")[0][0]
        database.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                     "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
        with pytest.raises(SourceUnavailable):
            await held(node, b"1", use=Use.CLIENT)
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(
                f"ALTER DATABASE {name} RESET default_transaction_read_only".encode()
            )
        await until(lambda: node.health()[0], "the database is found again")
        assert await held(node, b"1", use=Use.CLIENT) == [True]
