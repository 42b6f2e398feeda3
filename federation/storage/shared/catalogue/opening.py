"""Checks the site's database before a node uses it, makes the tables of a new site, and upgrades.

The nodes of a site are upgraded one by one. The first new one upgrades the database, under a lock
and in one transaction, while the older ones serve on: a version adds to the tables, and only a
later one removes what nobody uses any more. The functions are those of the newest version; one
whose arguments or result change gets a new name, and sql/older.sql has the old one for as long. The
database says which programs may serve it (`oldest`): others stop, or do not start.
"""

from __future__ import annotations

import uuid
from importlib.resources import files

import structlog

from federation.core.errors import SourceUnavailable, StorageRefused
from federation.storage.shared.catalogue.connections import SOURCE, DatabaseConnections

SCHEMA = 4
OLDEST_SERVER = 15
_FUNCTIONS = (
    "common", "lost", "pins", "keepings", "purges", "blobs", "entries", "leads", "peers",
    "redating", "older",
)  # fmt: skip
# Whoever upgrades holds lock 17 of this number, and waits for the tables for a moment only: all
# nodes wait behind it.
_BEGIN = """
SELECT pg_advisory_xact_lock(1178944579, 17);
SELECT set_config('lock_timeout', '2s', true);
DO $$ BEGIN
  IF ({found}) IS DISTINCT FROM {expected} THEN
    RAISE EXCEPTION 'another node was faster';
  END IF;
END $$;
"""
_SCHEMA_OF_SITE = "SELECT schema FROM site"
_HAS_SITE = "to_regclass('site') IS NOT NULL"
# Site time begins late enough that what a peer sends may have been unused for decades.
_FIRST_MS = 10**12
_NEW_SITE = """
INSERT INTO site (id, schema, site_id, log_epoch) VALUES (1, {schema}, '{site_id}', '{log_epoch}');
INSERT INTO clock VALUES (1, {now_ms}, 0, federation_incarnation());
"""
_UPGRADED = "UPDATE site SET schema = {schema};"
_SCHEMA_AND_OLDEST = """
SELECT schema, coalesce((to_jsonb(site) ->> 'oldest')::int, 1), site_id FROM site
"""

_log = structlog.get_logger(__name__)


async def open_site(connections: DatabaseConnections, *, may_create: bool) -> str:
    """Check the database, make or upgrade the tables, and return the site's id.

    may_create: False for commands, which refuse a database that needs either.

    Raises StorageRefused.
    """
    try:
        await _check_server(connections, warns=may_create)
        if not await _has_tables(connections):
            if not may_create:
                raise StorageRefused(f"{SOURCE} has no tables; no node has served it yet")
            await _create(connections)
        schema, oldest, site_id = await connections.ask_one(_SCHEMA_AND_OLDEST)
        if schema < SCHEMA:
            if not may_create:
                raise StorageRefused(
                    f"{SOURCE} has schema version {schema}, this program needs {SCHEMA}: "
                    "start a node of this version first, which upgrades it"
                )
            await _upgrade(connections, schema)
    except SourceUnavailable as error:
        needed = "; a node needs it to start" if may_create else ""
        trouble = connections.trouble  # says more than clients are told
        told = SourceUnavailable(SOURCE, trouble) if trouble else error
        raise StorageRefused(f"{told}{needed}") from error
    if trouble := too_old(schema, oldest):
        raise StorageRefused(trouble)
    return str(site_id)


async def upgrade_older(connections: DatabaseConnections) -> None:
    """Upgrade a database that answers and has an older schema, as at a start.

    One may be put back below running nodes. Raises SourceUnavailable, StorageFull.
    """
    if await _has_tables(connections):
        schema, *_ = await connections.ask_one(_SCHEMA_AND_OLDEST)
        if schema < SCHEMA:
            await _upgrade(connections, schema)


def too_old(schema: int, oldest: int) -> str:
    """Return why this program may not serve a site with this schema; empty: it may."""
    if oldest <= SCHEMA:
        return ""
    return (
        f"{SOURCE} has schema version {schema}, which needs programs that know version {oldest}; "
        f"this one knows {SCHEMA}: upgrade this node"
    )


async def _check_server(connections: DatabaseConnections, *, warns: bool) -> None:
    version, encoding, fsync, standbys = await connections.ask_one(
        "SELECT current_setting('server_version_num')::int / 10000, "
        "current_setting('server_encoding'), current_setting('fsync'), "
        "current_setting('synchronous_standby_names')"
    )
    if version < OLDEST_SERVER:
        raise StorageRefused(
            f"{SOURCE} is PostgreSQL {version}; {OLDEST_SERVER} or newer is needed"
        )
    if encoding != "UTF8":
        raise StorageRefused(f"{SOURCE} has encoding {encoding}; create one with UTF8")
    if fsync != "on":
        raise StorageRefused(f"{SOURCE} has fsync = {fsync}: it would lose what was acknowledged")
    if warns and not standbys:
        _log.warning(
            "catalogue_without_standby",
            reason="no synchronous standby: losing the database's machine loses the site",
        )


async def _has_tables(connections: DatabaseConnections) -> bool:
    (found,) = await connections.ask_one(f"SELECT {_HAS_SITE}")
    return bool(found)


def _scripts(after: int) -> str:
    """Return what brings a database from schema `after` (0: an empty one) to SCHEMA."""
    names = [f"schema{version}" for version in range(after + 1, SCHEMA + 1)]
    folder = files(__package__) / "sql"
    return "".join((folder / f"{each}.sql").read_text("utf-8") for each in (*names, *_FUNCTIONS))


async def _create(connections: DatabaseConnections) -> None:
    """Make all tables and functions in one transaction. Raises SourceUnavailable."""
    ids = {"site_id": uuid.uuid4().hex, "log_epoch": uuid.uuid4().hex}
    new_site = _NEW_SITE.format(schema=SCHEMA, now_ms=_FIRST_MS, **ids)
    begin = _BEGIN.format(found=_HAS_SITE, expected="false")
    try:
        await connections.run_script(begin + _scripts(0) + new_site)
    except SourceUnavailable:
        if not await _has_tables(connections):  # else another node has made them just now
            raise
    else:
        _log.info("site_created", site=ids["site_id"])


async def _upgrade(connections: DatabaseConnections, before: int) -> None:
    """Bring tables and functions to SCHEMA in one transaction. Raises as run_script."""
    begin = _BEGIN.format(found=_SCHEMA_OF_SITE, expected=before)
    try:
        await connections.run_script(begin + _scripts(before) + _UPGRADED.format(schema=SCHEMA))
    except SourceUnavailable:
        schema, *_ = await connections.ask_one(_SCHEMA_AND_OLDEST)
        if schema < SCHEMA:  # else another node has upgraded it just now
            raise
    else:
        _log.warning("site_upgraded", schema_before=before, schema=SCHEMA)
