"""Sites of another schema than the program's: upgraded by one node, while the others serve on."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from federation.core.clock import SystemClock
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.core.tasks import FailingWork
from federation.storage.shared.catalogue.opening import SCHEMA
from federation.storage.shared.catalogue.rows import Insertion
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import open_catalogue
from tests.storage.shared.site import LEASE_S, SiteDatabase, held, store
from tests.support.polling import until

pytestmark = pytest.mark.servers

TABLES = files("federation.storage.shared.catalogue") / "sql"
FUNCTIONS = Path(__file__).parent / "schemas"
BEFORE = range(1, SCHEMA)
_BEFORE_PINS = 2  # the next version changes tables
_COLUMNS = """
SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 3
"""
_INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
_FUNCTIONS = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname ~ '^federation_' ORDER BY 1"
_SIGNATURES = """
SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid)
FROM pg_proc WHERE proname ~ '^federation_'
"""


def old_site(database: SiteDatabase, version: int = SCHEMA - 1) -> None:
    tables = [TABLES / f"schema{each}.sql" for each in range(1, version + 1)]
    functions = FUNCTIONS / f"{version}.sql"
    database.sql("".join([each.read_text("utf-8") for each in tables] + [functions.read_text()]))


def shape(database: SiteDatabase) -> list[list[tuple[Any, ...]]]:
    return [database.sql(statement) for statement in (_COLUMNS, _INDEXES, _FUNCTIONS)]


def schema(database: SiteDatabase) -> int:
    return int(database.sql("SELECT schema FROM site")[0][0])


@pytest.mark.parametrize("version", BEFORE)
async def test_d13_an_upgraded_site_is_the_same_as_a_new_one(
    database: SiteDatabase, postgres_server: Any, version: int
) -> None:
    old_site(database, version)
    new = SiteDatabase(postgres_server)
    async with database.node() as upgraded, new.node():
        assert upgraded.site_id == "site"
        assert shape(database) == shape(new)
    new.drop()


@pytest.mark.parametrize("version", BEFORE)
async def test_what_an_old_site_holds_is_there_after_the_upgrade(
    database: SiteDatabase, version: int
) -> None:
    old_site(database, version)
    database.sql(
        "SELECT federation_insert(ARRAY['\\x01'::bytea || sha256('1')], '{1}', '{1}', "
        "ARRAY[null::bytea], ARRAY[''::bytea], '{1}', '{0}', '{\"\"}', '{\"\"}', '{0}', 0, 1, 1, "
        "null)"
    )
    async with database.node() as node:
        assert schema(database) == SCHEMA
        assert await held(node, b"1") == [True]
        assert await store(node, b"2") == [Insertion.STORED]
        assert [row.seq for row in (await node.log.read(0, 10)).rows] == [1, 2]


@pytest.mark.parametrize("version", BEFORE)
def test_d13_programs_of_versions_before_find_every_function_that_they_call(
    database: SiteDatabase, version: int
) -> None:
    """The upgrade happens while they run."""
    old_site(database, version)
    before = set(database.sql(_SIGNATURES))
    asyncio.run(upgrade(database))
    assert before <= set(database.sql(_SIGNATURES))


async def upgrade(database: SiteDatabase) -> None:
    async with database.node():
        pass


@pytest.mark.parametrize("version", BEFORE)
async def test_d13_an_older_site_that_is_put_back_below_nodes_is_upgraded(
    database: SiteDatabase, version: int
) -> None:
    async with database.node() as node:
        await store(node, b"1")
        database.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        old_site(database, version)
        await until(lambda: node.watch.log_epoch == "epoch", "the node polls it")
        await until(lambda: schema(database) == SCHEMA, "the node upgrades it")
        assert await held(node, b"1") == [False]
        assert await store(node, b"2") == [Insertion.STORED]


async def test_d13_of_nodes_that_start_at_once_one_upgrades(database: SiteDatabase) -> None:
    old_site(database)
    with capture_logs() as logged:
        await asyncio.gather(*(upgrade(database) for _ in range(3)))
    assert [each["event"] for each in logged].count("site_upgraded") == 1
    assert schema(database) == SCHEMA


async def test_d13_an_upgrade_waits_for_who_uses_the_tables(
    database: SiteDatabase,
) -> None:
    old_site(database, _BEFORE_PINS)
    with database.transaction("SELECT count(*) FROM blob"):
        upgrading = asyncio.ensure_future(upgrade(database))
        await until(lambda: database.blocked() == 1, "the upgrade waits for the table")
        assert database.sql("SELECT to_regclass('pin')") == [(None,)]
    await upgrading
    assert schema(database) == SCHEMA


async def test_a_command_does_not_upgrade(database: SiteDatabase) -> None:
    old_site(database)
    settings = CatalogueSettings(database.url, LEASE_S)
    with pytest.raises(StorageRefused, match="start a node of this version first"):
        await open_catalogue(settings, SystemClock(), FailingWork(), may_create=False)
    assert schema(database) == SCHEMA - 1


async def test_a_newer_site_is_served_as_long_as_it_says_so(database: SiteDatabase) -> None:
    """Also by a node that is started again while the others are upgraded already."""
    async with database.node() as node:
        database.sql("ALTER TABLE site ADD COLUMN later text; UPDATE site SET schema = schema + 1")
        assert await store(node, b"1") == [Insertion.STORED]
        async with database.node() as again:
            assert await held(again, b"1") == [True]
    assert schema(database) == SCHEMA + 1


async def test_d13_a_node_that_is_too_old_for_its_site_stops_and_says_why(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, b"1")
        database.sql("UPDATE site SET schema = schema + 1, oldest = schema + 1")
        await until(lambda: not node.health()[0], "the node has seen it")
        assert "upgrade this node" in node.health()[1]
        with pytest.raises(SourceUnavailable, match=f"knows {SCHEMA}"):
            await held(node, b"1")
    with pytest.raises(StorageRefused, match="upgrade this node"):
        await upgrade(database)
