"""Catalogues that released versions wrote are brought up to date, whole or not at all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from federation.config.model import StorageConfig
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.errors import StorageRefused
from federation.core.index import NO_STAMP, EntryKey, EntryKind
from federation.core.provenance import Source
from federation.storage.admin.summary import summary
from federation.storage.catalogue import blobs, change_log, entries, peer_records, schema
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.transaction import read_totals
from federation.storage.directory import DataDirectory
from federation.storage.opening import open_directory
from federation.storage.processes import ProcessEntry
from federation.storage.timing import Timing
from tests.storage.conftest import opened, read, short

_SCHEMA_1 = Path(__file__).with_name("schema_1.sql")
_STORED_S = 1_700_000_000.25
_AHEAD_S = 9_000_000_000.0


def make_version_1(path: Path, entries: int = 3, ahead_s: float = _AHEAD_S) -> None:
    """A data directory as a node of schema version 1 left it: a blob and some entries.

    The second entry was stored at ahead_s.
    """
    for number in range(256):
        (path / "blobs" / f"{number:02x}").mkdir(parents=True)
    connection = schema.connect(path / "catalogue.sqlite")
    connection.execute(_SCHEMA_1.read_text() + "PRAGMA user_version = 1")
    with connection:
        connection.execute("INSERT INTO meta VALUES ('node_id', 'old-node')")
        connection.execute("INSERT INTO small VALUES (1, ?)", (b"blob",))
        connection.execute(
            "INSERT INTO blob VALUES (?, 4, 1, 1, 5, 5, 0, 0)", (key_of(digest_of(b"blob")),)
        )
        connection.execute(
            "INSERT INTO log VALUES (1, 0, '', ?, 4, ?, 0, '', '')",
            (key_of(digest_of(b"blob")), _STORED_S),
        )
        for n in range(entries):
            stored_s = ahead_s if n == 1 else _STORED_S + n
            source = Source.UPSTREAM if n == 2 else Source.CLIENT
            connection.execute(
                "INSERT INTO entry (kind, instance, name, value, label, stored, source, origin, "
                "accessed, seq) VALUES (2, '', ?, x'00', 'label', ?, ?, '', 5, ?)",
                (b"%d" % n, stored_s, int(source), n + 2),
            )
            connection.execute(
                "INSERT INTO log VALUES (?, 2, '', ?, 6, ?, ?, '', '')",
                (n + 2, b"%d" % n, stored_s, int(source)),
            )
        connection.execute(
            "UPDATE totals SET bytes = ?, blobs = 1, entries = ?, seq = ?",
            (4 + 6 * entries, entries, entries + 1),
        )
    connection.close()


def asset(name: bytes) -> EntryKey:
    return EntryKey(EntryKind.ASSET_BLOB, "", name)


async def test_o12_version_1_is_served_on_with_stamps_for_what_was_pushed(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    async with opened(tmp_path, short()) as storage:
        assert storage.node_id == "old-node"
        assert await read(storage, digest_of(b"blob")) == b"blob"
        pushed, ahead, pulled = await storage.get([asset(b"0"), asset(b"1"), asset(b"2")])
        assert pushed is not None
        assert ahead is not None
        assert pulled is not None
        assert pushed.stamp == (1_700_000_000_250 << 16, "old-node")
        now = int(storage.core.clock.wall_s() * 1000) << 16
        assert pushed.stamp.ticks < ahead.stamp.ticks <= now
        assert pulled.stamp == NO_STAMP
        rows, is_whole = await storage.ledger.read(0, 10)
        assert ([row.seq for row in rows], is_whole) == ([1, 2, 3, 4], True)
        assert await storage.ledger.peers() == []
        await storage.put([pushed._replace(value=b"newer")])
        (newer,) = await storage.get([asset(b"0")])
        assert newer is not None
        assert newer.stamp > ahead.stamp
        rows, _ = await storage.ledger.read(4, 10)
        assert [row.total_bytes for row in rows] == [10]


def test_o12_a_migrated_catalogue_is_like_a_new_one(tmp_path: Path) -> None:
    make_version_1(tmp_path / "old")
    old, new = (
        schema.connect(tmp_path / "old" / "catalogue.sqlite"),
        schema.connect(tmp_path / "new.sqlite"),
    )
    for connection in (old, new):
        schema.bring_up(connection)
    assert _shape(old) == _shape(new)
    assert schema.stored_version(old) == schema.stored_version(new) == schema.VERSION


def _shape(connection: apsw.Connection) -> dict[str, object]:
    tables = connection.execute(
        "SELECT name, type FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()
    columns = {
        str(name): connection.execute(f"PRAGMA table_info({name})").fetchall() for name, _ in tables
    }
    return {"tables": tables, **columns}


def test_o12_a_migration_killed_at_any_point_is_finished_or_untouched(tmp_path: Path) -> None:
    """The killing is done by a program that forks, since this one has threads."""
    make_version_1(tmp_path / "first", entries=15_000, ahead_s=_STORED_S)
    seed = random.SystemRandom().randrange(2**32)
    command = [sys.executable, "-m", "tests.storage.kill_migration", str(tmp_path), str(seed), "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["killed"] == 20, counted
    assert counted["untouched"] >= 1, f"seed {seed}: {counted}"
    assert counted["untouched"] + counted["finished"] == 20, f"seed {seed}: {counted}"


def migrate(path: Path) -> None:
    open_directory(path, SystemClock(), Timing.for_lease(0.5)).run.end()


def test_o12_the_catalogue_is_copied_as_it_was_before_it_changes(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    (tmp_path / "catalogue.version-0.sqlite").write_bytes(b"of an earlier upgrade")
    migrate(tmp_path)
    assert [p.name for p in tmp_path.glob("catalogue.version-*")] == ["catalogue.version-1.sqlite"]
    kept = apsw.Connection(str(tmp_path / "catalogue.version-1.sqlite"))
    assert schema.stored_version(kept) == 1
    assert kept.execute("SELECT count(*) FROM entry").fetchone() == (3,)
    kept.close()
    before = (tmp_path / "catalogue.version-1.sqlite").read_bytes()
    migrate(tmp_path)
    assert (tmp_path / "catalogue.version-1.sqlite").read_bytes() == before


def test_o12_no_room_for_the_copy_prevents_no_start(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    # A folder in its place, so that nothing can be written there.
    (tmp_path / "catalogue.version-1.unfinished").mkdir()
    migrate(tmp_path)
    assert not list(tmp_path.glob("catalogue.version-*.sqlite"))


def test_o13_what_this_version_wrote_is_refused_by_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    connection = schema.connect(path)
    schema.bring_up(connection)
    connection.close()
    before = path.read_bytes()
    connection = schema.connect(path)
    with pytest.raises(StorageRefused, match=f"{path} has schema version 6, .* up to 5. Use"):
        schema.bring_up(connection, version=5)
    connection.close()
    assert path.read_bytes() == before


def test_o12_nothing_is_migrated_under_processes_of_the_former_version(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    directory = DataDirectory(tmp_path)
    directory.prepare()
    running = ProcessEntry(directory)
    running.announce({})
    timing = Timing.for_lease(0.5)
    with pytest.raises(StorageRefused, match=f"pid {os.getpid()}.*Stop them first"):
        open_directory(tmp_path, SystemClock(), timing)
    connection = schema.connect(directory.catalogue, read_only=True)
    assert schema.stored_version(connection) == 1
    connection.close()
    running.end()
    opened_now = open_directory(tmp_path, SystemClock(), timing)
    assert opened_now.node_id == "old-node"
    opened_now.run.end()
    opened_now.epoch.close()


def test_o12_version_2_keeps_names_uses_marks_and_what_peers_lack(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    connection = schema.connect(tmp_path / "catalogue.sqlite")
    schema.bring_up(connection, version=2)
    key = key_of(digest_of(b"file" * 9000))
    connection.execute("INSERT INTO blob VALUES (?, 36000, 0, 5, 77, 7, 9, 1)", (key,))
    connection.execute("INSERT INTO log VALUES (5, 0, '', ?, 36000, 1, 1, '', 'up', 36000)", (key,))
    connection.execute("UPDATE entry SET instance = 'pr/' || id WHERE id < 3")
    connection.execute("UPDATE log SET instance = 'pr/' || (seq - 1) WHERE seq IN (2, 3)")
    connection.execute("UPDATE totals SET seq = 5, blobs = 2, bytes = bytes + 36000")
    peer = "INSERT INTO peer VALUES (?, 'always', 2, ?, ?, '', '', '', 0, 0, 0, 0, '', 0, 0, 0, 0)"
    for name, state, reason in (
        ("follows", "following", ""),
        ("new", "needs-resync", "new"),
        ("lost", "needs-resync", "its log was begun anew"),
    ):
        connection.execute(peer, (name, state, reason))
    schema.bring_up(connection)
    (row,) = blobs.look_up(connection, [key]).values()
    assert (row.used_ms, row.marked_ms, row.leased_ms) == (77, 1, 0)
    assert row.source == Source.UPSTREAM
    names = [EntryKey(EntryKind.ASSET_BLOB, f"pr/{n}", b"%d" % (n - 1)) for n in (1, 2)]
    found = entries.get(connection, [*names, asset(b"2"), asset(b"0")])
    assert [row is not None for row in found] == [True, True, True, False]
    logged = change_log.read(connection, 0, 10)
    assert logged.is_whole
    assert [row.key for row in logged.rows][1:3] == names
    holds = {record.name: record.holds for record in peer_records.read(connection)}
    assert holds == {"follows": True, "new": True, "lost": False}
    totals = read_totals(connection)
    assert (totals.files_bytes, totals.blobs, totals.seq) == (36864, 2, 5)
    assert schema.make_shrinkable(connection)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def make_version_3(path: Path) -> None:
    """A directory of version 3 where two blobs were set aside, and one of them is held again."""
    make_version_1(path)
    connection = schema.connect(path / "catalogue.sqlite")
    schema.bring_up(connection, version=3)
    for data, found_s in ((b"gone", 1.0), (b"blob", 2.0), (b"gone", 3.0)):
        connection.execute(
            "INSERT INTO quarantine (key, size, reason, found, file) VALUES (?, 4, 'cut', ?, '')",
            (key_of(digest_of(data)), found_s),
        )
    connection.close()


async def test_o12_what_version_3_set_aside_and_did_not_get_back_is_due(tmp_path: Path) -> None:
    make_version_3(tmp_path)
    async with opened(tmp_path, short()) as storage:
        found = await storage.lost.due(storage.core.clock.wall_s(), 10)
        assert [(each.digest, each.found_at_s) for each in found.due] == [(digest_of(b"gone"), 3.0)]


def test_status_reads_a_directory_of_version_3_as_it_is(tmp_path: Path) -> None:
    make_version_3(tmp_path)
    (tmp_path / "run").mkdir()
    facts = summary(tmp_path, StorageConfig())
    assert (facts["schema-version"], facts["quarantine"]["blobs"]) == (3, 3)
    assert (facts["healing"]["lost"], facts["healing"]["lost-blobs"]) == (0, [])
