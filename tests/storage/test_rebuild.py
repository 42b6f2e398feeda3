"""What a rebuild and a verification know of replication."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageRefused
from federation.core.index import NO_STAMP, Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import Lane, Parked, PeerRecord, PeerState
from federation.storage.admin import rebuild, verify
from tests.storage.conftest import opened, short
from tests.storage.test_migration import asset, make_version_1

PULLED = Provenance(Source.UPSTREAM, via=("far",), origin="hq")
ENTRIES = [Entry(EntryKey(EntryKind.ASSET_BLOB, "", n), b"value", "uri") for n in (b"a", b"b")]
SMALL, LARGE = b"small", b"large" * 20_000


def silent(done: int, total: int) -> None:
    del done, total


async def fill(path: Path) -> tuple[str, list[Entry | None]]:
    async with opened(path, short()) as storage:
        for data in (SMALL, LARGE):
            await storage.write_small([(digest_of(data), data)], provenance=PULLED)
        await storage.put(ENTRIES)
        newer = Stamp(int(storage.core.clock.wall_s() * 1000 + 60_000) << 16, "other")
        from_peer = Provenance(Source.PEER, via=("other",))
        await storage.put([ENTRIES[0]._replace(value=b"x", stamp=newer)], provenance=from_peer)
        following = PeerRecord("tokyo", cursor=4, state=PeerState.FOLLOWING, reason="")
        await storage.ledger.save(
            [
                following._replace(node_id="theirs", pins_pulled=True),
                following._replace(lane=Lane.WINDOW),
            ]
        )
        await storage.ledger.park([Parked("tokyo", 1, digest_of(SMALL), None, "l", "no", 1.0)])
        return storage.ledger.log_epoch, await storage.get([entry.key for entry in ENTRIES])


async def test_a_rebuilt_catalogue_keeps_stamps_and_has_peers_compared(tmp_path: Path) -> None:
    epoch, before = await fill(tmp_path)
    report = await asyncio.to_thread(rebuild, tmp_path, short(), silent)
    assert (report.files, report.inline_blobs, report.entries, report.peers) == (1, 1, 2, 1)
    async with opened(tmp_path, short()) as storage:
        assert storage.ledger.log_epoch != epoch
        after = await storage.get([entry.key for entry in ENTRIES])
        for old, new in zip(before, after, strict=True):
            assert old is not None
            assert new is not None
            assert (new.value, new.stamp, new.source) == (old.value, old.stamp, old.source)
        rows, is_whole = await storage.ledger.read(0, 10)
        assert is_whole
        found: dict[Digest | None, Any] = {row.digest: row for row in rows}
        for data in (SMALL, LARGE):
            row = found[digest_of(data)]
            assert (row.source, row.via, row.origin) == (Source.UPSTREAM, ("far",), "hq")
        for record in await storage.ledger.peers():
            assert (record.state, record.cursor) == (PeerState.NEEDS_RESYNC, 0)
            assert record.reason == "the catalogue was rebuilt"
            assert record.pins_pulled == (record.lane is Lane.ALWAYS)
        assert await storage.ledger.parked() == []
        assert before[0] is not None
        await storage.put([ENTRIES[1]._replace(value=b"later")])
        (later,) = await storage.get([ENTRIES[1].key])
        assert later is not None
        assert later.stamp > before[0].stamp  # the clock goes on from the latest that was met
    report_of_all = await asyncio.to_thread(verify, tmp_path, short(), silent, repair=False)
    assert report_of_all.ok, report_of_all.catalogue_problems


async def test_a_catalogue_from_before_there_were_stamps_is_rebuilt_with_them(
    tmp_path: Path,
) -> None:
    make_version_1(tmp_path)
    await asyncio.to_thread(rebuild, tmp_path, short(), silent)
    async with opened(tmp_path, short()) as storage:
        assert storage.node_id == "old-node"
        pushed, ahead, pulled = await storage.get([asset(b"0"), asset(b"1"), asset(b"2")])
        assert pushed is not None
        assert ahead is not None
        assert pulled is not None
        assert pushed.stamp == (1_700_000_000_250 << 16, "old-node")
        assert pushed.stamp < ahead.stamp
        assert ahead.stamp.ticks <= int(storage.core.clock.wall_s() * 1000) << 16
        assert pulled.stamp == NO_STAMP


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("UPDATE peer SET cursor = 99", "a peer's cursor is 99, beyond the change log's end 5"),
        ("UPDATE blob SET seq = 98", "a blob's row is 98"),
        ("UPDATE entry SET seq = 97", "an entry's row is 97"),
        ("UPDATE entry SET ticks = 1 << 62", "an entry's stamp 4611686018427387904 is later"),
        ("UPDATE totals SET logged = 1", "differ from the change log's last row (5,"),
        ("UPDATE totals SET seq = 4", "differ from the change log's last row (5,"),
    ],
)
async def test_verify_finds_what_cannot_be_in_the_log(tmp_path: Path, harm: str, said: str) -> None:
    await fill(tmp_path)
    connection = apsw.Connection(str(tmp_path / "catalogue.sqlite"))
    connection.execute(f"{harm} WHERE rowid = 1" if "entry SET seq" in harm else harm)
    connection.close()
    report = await asyncio.to_thread(verify, tmp_path, short(), silent, repair=False)
    assert any(said in problem for problem in report.catalogue_problems)
    assert not report.ok


async def test_an_asset_that_expires_with_the_last_timestamp_is_kept(tmp_path: Path) -> None:
    lasting = ENTRIES[0]._replace(expires_at_s=253_402_300_799.0)
    async with opened(tmp_path, short()) as storage:
        await storage.put([lasting])
    await asyncio.to_thread(rebuild, tmp_path, short(), silent)
    async with opened(tmp_path, short()) as storage:
        (found,) = await storage.get([lasting.key])
    assert found is not None
    assert (found.value, found.expires_at_s) == (lasting.value, lasting.expires_at_s)


class Killed(Exception):
    """Where a rebuild is cut off."""


@pytest.mark.parametrize("step", range(12))
async def test_o20_a_rebuild_cut_off_at_any_step_of_its_end_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The last rows are in the old catalogue's write-ahead log only, as a kill leaves it."""
    async with opened(tmp_path / "served", short()) as storage:
        connection = apsw.Connection(str(storage.core.directory.catalogue))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()
        await storage.write_small([(digest_of(SMALL), SMALL)])
        shutil.copytree(tmp_path / "served", tmp_path / "data")
    for trace in (tmp_path / "data" / "run").iterdir():
        trace.unlink()
    left = [step]

    def cut_off(call: Callable[..., object]) -> Callable[..., object]:
        def cut(path: Path, *args: Any, **more: Any) -> object:
            if path.name.startswith("catalogue."):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return call(path, *args, **more)

        return cut

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "hardlink_to"):
            patch.setattr(Path, name, cut_off(getattr(Path, name)))
        with contextlib.suppress(Killed):
            await asyncio.to_thread(rebuild, tmp_path / "data", short(), silent)
    refused = ""
    try:
        async with opened(tmp_path / "data", short()):
            pass
    except StorageRefused as error:
        refused = str(error)
    assert not refused or "federation rebuild" in refused
    if refused:
        await asyncio.to_thread(rebuild, tmp_path / "data", short(), silent)
    async with opened(tmp_path / "data", short()) as storage:
        assert await storage.find_missing([digest_of(SMALL)]) == set()
