"""How pins are kept while entries, pins and nodes come and go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from federation.closure.names import ARTIFACT_URN
from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig
from federation.core.digest import Digest, digest_of
from federation.core.index import Stamp
from federation.core.pins import PinKind, PinTarget
from federation.core.store import SMALL_BLOB_BYTES
from federation.storage.catalogue import change_log, pins
from federation.storage.catalogue.transaction import Transaction
from federation.storage.storage import Storage
from tests.replication.here import asset_of
from tests.storage.conftest import put
from tests.storage.test_eviction import held
from tests.storage.test_pinning import (
    DAY_S,
    LEAF,
    MAIN,
    OTHER,
    evict_all,
    pin,
    report,
    result,
    settings,
    settle,
    tree_of,
    wanted,
)

Opener = Callable[..., Awaitable[Storage]]


@pytest.fixture
async def storage(open_storage: Opener) -> Storage:
    return await open_storage(settings())


async def of_a_peer(storage: Storage, *, ticks: int = 5, until_s: float | None = None) -> int:
    theirs = wanted(until_s=until_s)._replace(stamp=Stamp(ticks << 16, "peer"))
    return await storage.ledger.pins.apply([theirs])


async def test_entries_that_come_during_a_long_look_are_kept_for_a_pin_made_meanwhile(
    storage: Storage,
) -> None:
    digests, other = await tree_of(storage, LEAF), PinTarget(PinKind.INSTANCE, "rel")
    await storage.put([result(b"a", digests[0])])
    await of_a_peer(storage)

    async def meanwhile() -> None:
        assert (await pin(storage, other)).entries == 0
        await storage.put([result(b"b", digests[0], instance="rel")])

    await settle(storage, meanwhile=meanwhile)
    found = (await storage.ledger.pins.report()).pins
    assert {each.pin.target: each.entries for each in found} == {MAIN: 1, other: 1}


async def test_nothing_is_kept_for_a_pin_that_is_removed_while_entries_are_looked_at(
    storage: Storage,
) -> None:
    digests = await tree_of(storage, LEAF)
    await storage.put([result(b"%d" % at, digests[0]) for at in range(20)])
    await of_a_peer(storage)
    await settle(storage, meanwhile=lambda: storage.ledger.pins.unpin([MAIN], "bob"))
    await settle(storage)
    assert (await storage.ledger.pins.report()).size_bytes == 0
    await evict_all(storage)
    assert await held(storage, digests) == []


async def test_a_log_that_is_trimmed_during_a_look_makes_it_begin_again(
    storage: Storage,
) -> None:
    first, second = await tree_of(storage, LEAF), await tree_of(storage, OTHER)
    await storage.put([result(b"a", first[0])])
    await of_a_peer(storage)

    async def meanwhile() -> None:
        await storage.put([result(b"a", second[0])])
        await storage.core.writer.submit(lambda tx: change_log.trim(tx, tx.totals.seq, 100))

    await settle(storage, meanwhile=meanwhile)
    assert not (await report(storage)).is_settled
    await settle(storage)
    assert (await report(storage)).is_whole
    await evict_all(storage)
    assert await held(storage, second) == second


async def test_a_pin_that_has_ended_does_not_come_back_with_an_older_record(
    storage: Storage,
) -> None:
    now_s = storage.core.clock.wall_s()
    assert await of_a_peer(storage, ticks=6, until_s=now_s + DAY_S) == 1
    assert await of_a_peer(storage, ticks=7, until_s=now_s - 1) == 1  # it ends the one before
    await settle(storage)
    assert (await storage.ledger.pins.report()).pins == []
    (record,) = (await storage.ledger.pins.page(0, 10)).pins
    assert (record.is_removed, record.stamp.ticks) == (True, 7 << 16)
    assert await of_a_peer(storage, ticks=6) == 0
    assert (await pin(storage)).is_settled


async def test_what_pins_take_is_the_sum_of_what_each_takes_however_entries_change(
    storage: Storage,
) -> None:
    roots = await tree_of(storage, LEAF)
    await pin(storage)
    for repeated in (1, 50, 1, 50):
        await storage.put([result(b"a", *roots[:1] * repeated)])
        await settle(storage)
    storage.core.store_clock._base_ms += 90_000_000
    await settle(storage)
    found = await storage.ledger.pins.report()
    assert found.size_bytes == found.pins[0].size_bytes > 0


async def test_an_entry_with_the_row_id_of_a_purged_one_is_not_kept_for_it(
    storage: Storage,
) -> None:
    (root, *_) = await tree_of(storage, LEAF)
    entry, other = result(b"a", root), result(b"b", root, instance="pr")
    await storage.put([entry])
    await pin(storage)
    await pin(storage, PinTarget(PinKind.ACTION, digest=digest_of(b"a")))
    await storage.ledger.purges.purge([(entry.key, "")], "bob")
    await storage.put([other])
    (candidate,) = await storage.core.pool.query(pins.candidates, 0, 10)
    assert candidate.id == 1
    storage.core.store_clock._base_ms += 90_000_000
    await settle(storage)
    await settle(storage)
    assert (await storage.ledger.pins.report()).size_bytes == 0


async def test_what_peers_pin_is_looked_for_and_a_trimmed_log_changes_nothing(
    storage: Storage,
) -> None:
    digests = await tree_of(storage, LEAF)
    await storage.put([result(b"a", digests[0])])
    await storage.core.writer.submit(lambda tx: change_log.trim(tx, tx.totals.seq, 100))
    theirs = wanted()._replace(stamp=Stamp(5 << 16, "peer"))
    assert await storage.ledger.pins.apply([theirs]) == 1
    assert not (await report(storage)).is_settled
    await settle(storage)
    found = await report(storage)
    assert (found.is_settled, found.entries, found.blobs) == (True, 1, 3)
    gone = theirs._replace(stamp=Stamp(6 << 16, "peer"), is_removed=True)
    assert await storage.ledger.pins.apply([gone, theirs]) == 1
    await settle(storage)
    assert (await storage.ledger.pins.report()).size_bytes == 0


async def test_a_command_that_died_leaves_no_pin(storage: Storage) -> None:
    digests = await tree_of(storage, LEAF)
    await storage.put([result(b"a", digests[0])])
    pin_id = await storage.core.writer.submit(partial(pins.begin_trial, pin=wanted()))
    (entry,) = await storage.core.pool.query(pins.candidates, 0, 10)
    await storage.pin_walker(pin_walk(LimitsConfig())).keep(pin_id, entry.id)
    assert (await storage.ledger.pins.report()).size_bytes > 0
    assert (await storage.ledger.pins.page(0, 10)).pins == []
    storage.core.store_clock._base_ms += 600_001
    await settle(storage)
    assert (await storage.ledger.pins.report()).size_bytes == 0
    await evict_all(storage)
    assert await held(storage, digests) == []


async def test_entries_are_kept_as_far_as_they_can_be_read(storage: Storage) -> None:
    """Behind what is malformed, and missing ones of every kind: what is read as a whole, too."""
    text = await put(storage, b"no directory at all")
    whole = await tree_of(storage, LEAF)
    large = Digest(digest_of(b"large").hash, SMALL_BLOB_BYTES + 1)
    artifact = asset_of(f"{ARTIFACT_URN}a", digest_of(b"gone"), text, instance="main")
    await storage.put([result(b"a", text, large, whole[0]), artifact])
    found = await pin(storage)
    assert (found.entries, found.incomplete, found.missing, found.blobs) == (2, 2, 2, 4)
    await evict_all(storage)
    assert await held(storage, [text, *whole]) == [text, *whole]


async def test_what_a_pin_kept_ends_in_small_steps_once_it_is_removed(storage: Storage) -> None:
    """A pin may keep a million entries, and uploads wait for each transaction."""
    await pin(storage)
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
