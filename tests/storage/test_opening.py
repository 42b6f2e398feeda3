"""Which data directories are refused, migrated, or taken as they are."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import apsw
import pytest

from federation.core.clock import SystemClock
from federation.core.errors import StorageRefused
from federation.storage.catalogue import schema
from federation.storage.opening import open_directory
from federation.storage.timing import Timing
from tests.storage.conftest import opened, put, read, short


async def _fill(path: Path) -> None:
    async with opened(path, short()) as storage:
        await put(storage, b"small")
        await put(storage, b"large" * 20_000)


async def test_o13_a_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    await _fill(tmp_path)
    catalogue = tmp_path / "catalogue.sqlite"
    connection = apsw.Connection(str(catalogue))
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = catalogue.read_bytes()
    with pytest.raises(StorageRefused, match=f"schema version {schema.VERSION + 1}"):
        async with opened(tmp_path, short()):
            pytest.fail("opened")
    assert catalogue.read_bytes() == before


def test_o12_an_older_schema_migrates_in_one_transaction(tmp_path: Path) -> None:
    connection = schema.connect(tmp_path / "c.sqlite")
    schema.bring_up(connection)
    now = schema.VERSION
    steps = {now: "ALTER TABLE blob ADD COLUMN extra INTEGER NOT NULL DEFAULT 7"}
    schema.bring_up(connection, version=now + 1, migrations=steps)
    assert schema.stored_version(connection) == now + 1
    assert connection.execute("SELECT count(extra) FROM blob").fetchall() == [(0,)]
    broken = {now + 1: "CREATE TABLE fine (x); CREATE TABLE meta (twice)"}
    with pytest.raises(apsw.SQLError):
        schema.bring_up(connection, version=now + 2, migrations=broken)
    assert schema.stored_version(connection) == now + 1
    assert not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'fine'").fetchall()


@pytest.mark.parametrize("harm", ["gone", "empty", "garbage"])
async def test_s19_a_lost_or_ruined_catalogue_is_refused_naming_rebuild(
    tmp_path: Path, harm: str
) -> None:
    await _fill(tmp_path)
    catalogue = tmp_path / "catalogue.sqlite"
    if harm == "gone":
        catalogue.unlink()
    else:
        catalogue.write_bytes(b"" if harm == "empty" else b"not a database " * 1000)
    with pytest.raises(StorageRefused, match="federation rebuild"):
        async with opened(tmp_path, short()):
            pytest.fail("opened")


async def test_store_time_goes_on_after_a_new_boot(tmp_path: Path) -> None:
    await _fill(tmp_path)
    timing = Timing.for_lease(0.5)
    first = open_directory(tmp_path, SystemClock(), timing)
    first.run.end()
    connection = apsw.Connection(str(tmp_path / "catalogue.sqlite"))
    connection.execute("UPDATE meta SET value = 'another boot' WHERE name = 'boot_id'")
    (newest,) = connection.execute("SELECT max(used) FROM blob").fetchall()[0]
    assert isinstance(newest, int)
    connection.close()
    second = open_directory(tmp_path, SystemClock(), timing)
    second.run.end()
    assert second.node_id == first.node_id
    assert newest < second.store_clock.now_ms() < newest + 60_000


async def test_a_copied_directory_serves_what_the_original_did(tmp_path: Path) -> None:
    await _fill(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with opened(tmp_path / "b", short()) as storage:
        from federation.core.digest import digest_of

        assert await read(storage, digest_of(b"large" * 20_000)) == b"large" * 20_000


async def test_many_processes_may_make_one_directory_at_once(tmp_path: Path) -> None:
    timing = Timing.for_lease(0.5)
    opening = [
        asyncio.to_thread(open_directory, tmp_path / "d", SystemClock(), timing) for _ in range(8)
    ]
    found = await asyncio.gather(*opening)
    assert len({one.node_id for one in found}) == 1
    for one in found:
        one.run.end()


async def test_o16_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageRefused, match="cannot be used"):
        async with opened(tmp_path / "f", short()):
            pytest.fail("opened")
