"""Pins in a data directory: what is not as at other engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig
from federation.core.digest import digest_of
from federation.core.pins import KeptState, PinKind, PinTarget
from federation.core.provenance import Provenance, Source
from federation.storage.admin import backup, list_pins, rebuild, restore
from federation.storage.catalogue import entry_removal, eviction_rows, pins
from federation.storage.catalogue.peer_records import NO_HOLDS
from federation.storage.catalogue.transaction import Transaction
from federation.storage.directory_pins import DirectoryKeepings
from federation.storage.pin_tables import Keeping, PinnableEntry
from federation.storage.pin_walk import PinWalker
from federation.storage.upkeep import pin_keeper
from tests.contracts.pins.pinned import (
    LARGE,
    LEAF,
    MAIN,
    OTHER,
    held,
    names,
    of_a_peer,
    pin,
    put,
    report,
    result,
    tree_of,
)
from tests.contracts.pins.sites import DirectorySite, settings
from tests.storage.conftest import opened
from tests.storage.test_rebuild import silent


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[DirectorySite]:
    async with opened(tmp_path / "data", settings()) as storage:
        yield DirectorySite(storage)


async def test_eviction_reads_nothing_that_is_kept_and_checks_that_again(
    site: DirectorySite,
) -> None:
    storage = site.storage
    digests = await tree_of(site, LEAF)
    await storage.put([result(b"a", digests[0])])
    pulled = Provenance(Source.UPSTREAM, origin="hq")
    other = result(b"b", digests[0])
    await storage.put([other], provenance=pulled)
    await storage.write_small([(digest_of(OTHER), OTHER)], provenance=pulled)
    await pin(site, PinTarget(PinKind.BLOB, digest=digest_of(OTHER)))
    await pin(site)
    connection, now_ms = storage.core.pool.connection(), storage.core.now_ms() + 1
    rows: Any = connection.execute("SELECT used, key FROM blob").fetchall()
    ids = [row_id for (row_id,) in connection.execute("SELECT id FROM entry")]
    assert (len(rows), len(ids)) == (4, 2)
    for is_pulled in (True, False):
        chosen = (connection, 0, now_ms, NO_HOLDS, 10)
        assert eviction_rows.eviction_candidates(*chosen, pulled=is_pulled) == []
        assert entry_removal.eviction_candidates(*chosen, pulled=is_pulled) == []
    for table in ("blob", "entry"):
        query = (
            f"SELECT used FROM {table} WHERE kept = 0 AND source <> 1 AND used < 9 ORDER BY used"
        )
        (line,) = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
        assert line[3] == f"SEARCH {table} USING INDEX {table}_by_use (used<?)"
    marked = await storage.core.writer.submit(lambda tx: eviction_rows.mark(tx, rows, now_ms))
    assert marked == []
    gone = await storage.core.writer.submit(lambda tx: entry_removal.delete(tx, ids, now_ms))
    assert gone == (0, 0)
    held_bytes, kept_bytes = storage.core.writer.held_bytes, (await storage.ledger.pins.report())
    assert 0 < kept_bytes.size_bytes <= held_bytes + 8 * 4096


class NotingKeepings(DirectoryKeepings):
    settled = 0

    async def settle(self, keeping: Keeping[int], missing: int, *, is_whole: bool) -> None:
        self.settled += 1
        await super().settle(keeping, missing, is_whole=is_whole)


async def test_what_is_kept_as_a_whole_is_looked_at_again_without_a_write(
    site: DirectorySite,
) -> None:
    digests = await tree_of(site, LEAF)
    await site.index.put([result(b"a", digests[0])])
    await pin(site)
    keepings = NotingKeepings(site.storage.core)
    (pin_id,) = await keepings.totals()
    (entry,) = await keepings.candidates(None, 10)
    walker = PinWalker(keepings, site.storage, pin_walk(LimitsConfig()))
    assert await walker.keep(pin_id, entry.id) is KeptState.WHOLE
    assert keepings.settled == 0


async def test_what_eviction_has_marked_is_held_again_once_it_is_pinned(
    site: DirectorySite,
) -> None:
    digest = await put(site, LEAF)
    await site.evict_all()
    assert await held(site, [digest]) == []
    await pin(site, PinTarget(PinKind.BLOB, digest=digest))
    assert await held(site, [digest]) == [digest]


async def test_pins_survive_a_restart_a_restore_and_a_rebuild(tmp_path: Path) -> None:
    config = settings()
    async with opened(tmp_path / "data", config) as storage:
        site = DirectorySite(storage)
        digests = await tree_of(site, LEAF, LARGE)
        kept = result(b"a", digests[0])
        await storage.put([kept])
        before = await pin(site)
    backup(tmp_path / "data", tmp_path / "backup", silent)
    restore(tmp_path / "backup", tmp_path / "restored", silent)
    rebuild(tmp_path / "data", config, silent)
    for name in ("restored", "data"):
        async with opened(tmp_path / name, config) as storage:
            site = DirectorySite(storage)
            await site.evict_all()  # before anybody has looked what the pins name
            assert await held(site, digests) == digests
            assert await names(site, kept) == [True]
            await site.settle()
            found = await storage.ledger.pins.report()
            assert found.pins[0]._replace(pin=before.pin) == before
            assert found.size_bytes == before.size_bytes
            assert found.pins[0].pin == before.pin
        assert list_pins(tmp_path / name, config).pins[0] == before


async def test_an_entry_with_the_row_id_of_a_purged_one_is_not_kept_for_it(
    site: DirectorySite,
) -> None:
    storage = site.storage
    (root, *_) = await tree_of(site, LEAF)
    entry, other = result(b"a", root), result(b"b", root, instance="pr")
    await storage.put([entry])
    await pin(site)
    await pin(site, PinTarget(PinKind.ACTION, digest=digest_of(b"a")))
    await storage.ledger.purges.purge([(entry.key, "")], "bob")
    await storage.put([other])
    (candidate,) = await storage.core.pool.query(pins.candidates, 0, 10)
    assert candidate.id == 1
    await site.pass_ms(90_000_000)
    await site.settle()
    await site.settle()
    assert (await storage.ledger.pins.report()).size_bytes == 0


async def test_what_comes_is_kept_before_a_long_look_at_other_entries_has_ended(
    site: DirectorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, look = await tree_of(site, LEAF), DirectoryKeepings.candidates
    new, kept = [result(b"new", digests[0])], []
    await site.storage.put([result(b"%d" % at, digests[0], instance="rel") for at in range(3)])
    await of_a_peer(site)

    async def candidates(
        keepings: DirectoryKeepings, after: int | None, limit: int
    ) -> Sequence[PinnableEntry[int]]:
        page = await look(keepings, after, limit)
        if new:
            await site.storage.put([new.pop()])
        else:
            kept.append((await report(site)).entries)
        return page

    monkeypatch.setattr(DirectoryKeepings, "candidates", candidates)
    monkeypatch.setattr(pin_keeper, "ENTRIES_AT_ONCE", 1)
    await site.settle()
    assert kept == [1] * 4, "what the log told of waited for all others"


async def test_what_a_pin_kept_ends_in_small_steps_once_it_is_removed(site: DirectorySite) -> None:
    """A pin may keep a million entries, and uploads wait for each transaction."""
    storage = site.storage
    await pin(site)
    connection = storage.core.pool.connection()

    def fill(transaction: Transaction) -> None:
        transaction.connection.executemany(
            "INSERT INTO keeping (pin, entry, seq) SELECT id, ?1, ?1 FROM pin",
            [(at,) for at in range(1, 2502)],
        )

    await storage.core.writer.submit(fill)
    ended = "SELECT count(*) FROM keeping WHERE pin IS NULL"
    await storage.ledger.pins.unpin([MAIN], "bob")
    found: list[int] = []
    while await storage.ledger.pins.keepings.end_some():
        found += connection.execute(ended).fetchone() or ()
    assert found == [1000, 2000, 2501]
