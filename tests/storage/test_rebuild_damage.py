"""S19: whatever becomes of a catalogue, a rebuild ends, and keeps each blob that is in a file."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import apsw
import pytest

from federation.core.digest import digest_of
from federation.core.errors import SourceUnavailable
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.storage.admin import rebuild
from tests.faults.storage.clean import catalogue
from tests.storage.conftest import opened, read, short
from tests.storage.test_rebuild import silent
from tests.support.seeds import by_seed, told

_FILES = [os.urandom(80_000) for _ in range(2)]
_SMALL = [os.urandom(n * 90 + 1) for n in range(60)]
_GARBAGE = ["x'87ff'", "CAST(x'87ff' AS TEXT)", "9e999", "-1", "1 << 62", "NULL", "''", "'0x1'"]


async def fill(path: Path) -> None:
    entries = [
        Entry(EntryKey(EntryKind(1 + n % 3), "main", b"%d" % n), os.urandom(50 * n), f"urn:{n}")
        for n in range(60)
    ]
    async with opened(path, short()) as storage:
        blobs = [(digest_of(data), data) for data in _FILES + _SMALL]
        assert await storage.write_small(blobs) == [None] * len(blobs)
        await storage.put(entries)
        peers = [PeerRecord(f"peer {n}", Lane.ALWAYS, n, PeerState.FOLLOWING) for n in range(20)]
        await storage.ledger.save(peers)


def overwrite(file: Path, rng: random.Random) -> None:
    """Damage bytes, as a disk does: few or many, at one place or several."""
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 3, 20])):
        at, length = rng.randrange(len(content)), rng.choice([1, 8, 100, 2000])
        length = min(length, len(content) - at)
        content[at : at + length] = rng.choice([bytes(length), rng.randbytes(length)])
    file.write_bytes(content)


def set_values(file: Path, rng: random.Random) -> None:
    """Put values of other kinds where no program would, as damage may that still reads as rows."""
    connection = apsw.Connection(str(file))
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for table in ("blob", "small", "entry", "log", "peer", "meta", "totals"):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        for _ in range(rng.randrange(4)):
            column, value = rng.choice(columns), rng.choice(_GARBAGE)
            try:
                connection.execute(
                    f"UPDATE OR IGNORE {table} SET {column} = {value} WHERE abs(random()) % 3 = 0"
                )
            except apsw.Error:
                continue  # not even damage can do that: it is a row's number, or must be set
    connection.close()


@by_seed(20, 1500)
async def test_a_rebuild_survives_any_damage(tmp_path: Path, seeds: range) -> None:
    await fill(tmp_path / "whole")
    saved = 0
    for seed in told(seeds):
        rng, path = random.Random(seed), tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", path)
        rng.choice([overwrite, set_values])(path / "catalogue.sqlite", rng)
        report = await asyncio.to_thread(rebuild, path, short(), silent)
        assert (report.files, report.damaged_files) == (len(_FILES), 0)
        async with opened(path, short()) as storage:
            for data in _FILES:
                assert await read(storage, digest_of(data)) == data
            small = await storage.read_small([digest_of(data) for data in _SMALL])
            assert all(got in (None, data) for got, data in zip(small, _SMALL, strict=True))
        saved += report.inline_blobs + report.entries
        shutil.rmtree(path)
    assert saved > len(seeds) * 40, "next to nothing was saved"


async def test_text_that_is_none_is_damage_to_a_running_node_too(tmp_path: Path) -> None:
    key = EntryKey(EntryKind.ASSET_BLOB, "", b"name")
    async with opened(tmp_path, short()) as storage:
        await storage.put([Entry(key, b"value", "label")])
        with catalogue(tmp_path, write=True) as other:
            other.execute("UPDATE entry SET label = CAST(x'87ff' AS TEXT)")
        with pytest.raises(SourceUnavailable, match="UnicodeDecodeError"):
            await storage.get([key])
        is_well, why = storage.health()
        assert not is_well
        assert "federation rebuild" in why
