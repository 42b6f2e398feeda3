"""Checks the site's database before a node uses it, and makes the tables of a new site.

Two versions of this program serve a site together while its nodes are upgraded one by one. So a new
version adds to the schema, and a later one removes what nobody uses any more; functions get new
names instead of new arguments. A database of a newer schema than the program's is refused.
"""

from __future__ import annotations

import uuid
from importlib.resources import files

import structlog

from federation.core.errors import SourceUnavailable, StorageRefused
from federation.storage.shared.catalogue.connections import SOURCE, DatabaseConnections

SCHEMA = 1
OLDEST_SERVER = 15
_SCRIPTS = ("tables", "common", "lost", "blobs", "entries", "leads", "peers")
# Site time begins late enough that what a peer sends may have been unused for decades.
_FIRST_MS = 10**12
_NEW_SITE = """
INSERT INTO site (id, schema, site_id, log_epoch) VALUES (1, {schema}, '{site_id}', '{log_epoch}');
INSERT INTO clock VALUES (1, {now_ms}, 0, federation_incarnation());
"""

_log = structlog.get_logger(__name__)


async def open_site(connections: DatabaseConnections, *, may_create: bool) -> str:
    """Check the database, make the tables if there are none, and return the site's id.

    Raises StorageRefused.
    """
    try:
        await _check_server(connections)
        if not await _has_tables(connections):
            if not may_create:
                raise StorageRefused(f"{SOURCE} has no tables; no node has served it yet")
            await _create(connections)
        (schema, site_id), *_ = await connections.ask("SELECT schema, site_id FROM site")
    except SourceUnavailable as error:
        raise StorageRefused(f"{error}; a node needs it to start") from error
    if schema > SCHEMA:
        raise StorageRefused(
            f"{SOURCE} has schema version {schema}, this program knows {SCHEMA}: "
            "use the version that made it, or a newer one"
        )
    return str(site_id)


async def _check_server(connections: DatabaseConnections) -> None:
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
    if not standbys:
        _log.warning(
            "catalogue_without_standby",
            reason="no synchronous standby: losing the database's machine loses the site",
        )


async def _has_tables(connections: DatabaseConnections) -> bool:
    (found,) = await connections.ask_one("SELECT to_regclass('site') IS NOT NULL")
    return bool(found)


async def _create(connections: DatabaseConnections) -> None:
    """Make all tables and functions in one transaction. Raises SourceUnavailable."""
    folder = files(__package__) / "sql"
    script = "".join((folder / f"{name}.sql").read_text("utf-8") for name in _SCRIPTS)
    ids = {"site_id": uuid.uuid4().hex, "log_epoch": uuid.uuid4().hex}
    new_site = _NEW_SITE.format(schema=SCHEMA, now_ms=_FIRST_MS, **ids)
    try:
        await connections.run_script(script + new_site)
    except SourceUnavailable:
        if not await _has_tables(connections):  # else another node has made them just now
            raise
    else:
        _log.info("site_created", site=ids["site_id"])
