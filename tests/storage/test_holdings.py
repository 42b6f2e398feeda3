"""Going through all that is held while clients go on using it."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest

from federation.core.digest import digest_of
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import FROM_CLIENT
from federation.core.replication_log import Page
from federation.storage import scan
from federation.storage.access_times import TouchBatch
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import entries, eviction_rows, schema
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.transaction import Totals, Transaction

COUNT = 60


@pytest.fixture
def connection(tmp_path: Path) -> apsw.Connection:
    made = schema.connect(tmp_path / "catalogue.sqlite")
    made.execute("PRAGMA synchronous = OFF")
    schema.bring_up(made)
    return made


def transaction(connection: apsw.Connection, now_ms: int) -> Transaction:
    return Transaction(connection, now_ms, 1.0, Totals(), 2**40, node_id="here")


def key(n: int) -> EntryKey:
    return EntryKey(EntryKind.ASSET_BLOB, "", b"%d" % n)


def fill(connection: apsw.Connection, rng: random.Random) -> None:
    """Blobs and entries with access times of which many are equal."""
    tx = transaction(connection, 0)
    for n in range(COUNT):
        tx.now_ms = rng.randrange(1_000_000, 1_000_020)
        catalogue.insert(tx, key_of(digest_of(b"%d" % n)), 1, None, 0, FROM_CLIENT)
        entries.put(tx, [Entry(key(n), b"value", "")], FROM_CLIENT)


@pytest.mark.parametrize("seed", range(30))
def test_a_walk_misses_nothing_though_access_times_move(
    connection: apsw.Connection, seed: int
) -> None:
    rng = random.Random(seed)
    fill(connection, rng)
    now_ms = 1_001_000 + rng.choice([0, 3_600_000])
    for walk in (scan.blobs, scan.entries):
        seen: set[object] = set()
        position: str | None = None
        pages = 0
        while position is not None or pages == 0:
            page: Page = walk(connection, position, rng.randrange(1, 12), now_ms)
            seen.update(page.digests, (entry.key for entry in page.entries))
            position = page.next
            pages += 1
            now_ms += rng.randrange(1, 3_000)
            # What was used in the last seconds is written now, with the times of its use.
            used = rng.sample(range(COUNT), 3) if pages < 40 else []
            batch = TouchBatch(
                {key_of(digest_of(b"%d" % n)): now_ms - rng.randrange(5_000) for n in used},
                entries={n + 1: now_ms - rng.randrange(5_000) for n in used},
            )
            batch.write(connection, now_ms - 5_000)
        assert len(seen) == COUNT, f"{walk.__name__} missed {COUNT - len(seen)}"


def test_the_most_recently_used_come_first(connection: apsw.Connection) -> None:
    tx = transaction(connection, 0)
    names = [b"%d" % n for n in range(9)]
    for n, name in enumerate(names):
        tx.now_ms = 1000 + n
        catalogue.insert(tx, key_of(digest_of(name)), 1, None, 0, FROM_CLIENT)
    page = scan.blobs(connection, None, 100, 10_000_000)
    assert list(page.digests) == [digest_of(name) for name in reversed(names)]


def test_what_is_being_evicted_is_not_held(connection: apsw.Connection) -> None:
    tx = transaction(connection, 1000)
    for name in (b"1", b"2"):
        catalogue.insert(tx, key_of(digest_of(name)), 1, None, 0, FROM_CLIENT)
    eviction_rows.mark(tx, [(1000, key_of(digest_of(b"1")))], 2000)
    page = scan.blobs(connection, None, 100, 10_000_000)
    assert list(page.digests) == [digest_of(b"2")]


def test_p7_a_page_of_large_entries_is_short(connection: apsw.Connection) -> None:
    tx = transaction(connection, 1000)
    for n in range(12):
        entries.put(tx, [Entry(key(n), b"x" * 2**20, "")], FROM_CLIENT)
    page = scan.entries(connection, None, 1000, 10_000_000)
    assert len(page.entries) == 8
    following = scan.entries(connection, page.next, 1000, 10_000_000)
    assert len(following.entries) == 4


def test_a_touch_that_waited_long_counts_as_later(connection: apsw.Connection) -> None:
    tx = transaction(connection, 1000)
    digest = digest_of(b"1")
    catalogue.insert(tx, key_of(digest), 1, None, 0, FROM_CLIENT)
    TouchBatch({key_of(digest): 2000}).write(connection, 50_000)
    (row,) = catalogue.look_up(connection, [key_of(digest)]).values()
    assert row.used_ms == 50_000


@pytest.mark.parametrize(
    "text",
    ["rubbish", "down:1:2", "down:1:2:zz:3", "down:x:2:00", "sideways:1:2:00", f"up:1:{10**30}:7"],
)
def test_a_position_that_another_version_wrote_begins_anew(
    connection: apsw.Connection, text: str
) -> None:
    fill(connection, random.Random(1))
    for walk in (scan.blobs, scan.entries):
        page = walk(connection, text, COUNT, 2_000_000)
        assert len(page.digests) + len(page.entries) == COUNT
