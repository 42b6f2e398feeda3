"""How pins are kept while entries, pins and nodes come and go, whatever the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

import pytest

from federation.closure.names import ARTIFACT_URN
from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.index import Stamp
from federation.core.pins import PinKind, PinTarget
from federation.core.store import SMALL_BLOB_BYTES
from tests.contracts.pins.pinned import (
    DAY_S,
    LEAF,
    MAIN,
    OTHER,
    held,
    of_a_peer,
    pin,
    put,
    report,
    result,
    tree_of,
    wanted,
)
from tests.contracts.pins.sites import MAKERS, PARAMS, PinningSite
from tests.replication.here import asset_of


@pytest.fixture(params=PARAMS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[PinningSite]:
    async with MAKERS[request.param](request) as made:
        yield made


async def test_entries_that_come_during_a_long_look_are_kept_for_a_pin_made_meanwhile(
    site: PinningSite,
) -> None:
    digests, other = await tree_of(site, LEAF), PinTarget(PinKind.INSTANCE, "rel")
    await site.index.put([result(b"a", digests[0])])
    await of_a_peer(site)

    async def meanwhile() -> None:
        assert (await pin(site, other)).entries == 0
        await site.index.put([result(b"b", digests[0], instance="rel")])

    await site.settle(meanwhile=meanwhile)
    found = (await site.asked.report()).pins
    assert {each.pin.target: each.entries for each in found} == {MAIN: 1, other: 1}


@pytest.mark.parametrize("is_first_look", [True, False])
async def test_entries_that_come_are_kept_before_a_long_look_has_ended(
    site: PinningSite, is_first_look: bool
) -> None:
    absent, new = [digest_of(b"%d" % at) for at in range(40)], digest_of(b"new")
    await site.index.put([result(b"%d" % at, digest) for at, digest in enumerate(absent)])
    await of_a_peer(site)
    if not is_first_look:
        await site.settle()
        await site.pass_ms(90_000_000)  # what is incomplete is due again
    asked: dict[Digest, None] = {}

    async def fetch(digests: Collection[Digest]) -> None:
        asked.update(dict.fromkeys(digests))

    async def meanwhile() -> None:
        await site.index.put([result(b"new", new)])

    await site.settle(fetch, meanwhile)
    assert set(asked) == {*absent, new}
    assert list(asked)[-1] != new, "what the log told of waited for all others"


async def test_nothing_is_kept_for_a_pin_that_is_removed_while_entries_are_looked_at(
    site: PinningSite,
) -> None:
    digests = await tree_of(site, LEAF)
    await site.index.put([result(b"%d" % at, digests[0]) for at in range(20)])
    await of_a_peer(site)
    await site.settle(meanwhile=lambda: site.pins.unpin([MAIN], "bob"))
    await site.settle()
    assert (await site.asked.report()).size_bytes == 0
    await site.evict_all()
    assert await held(site, digests) == []


async def test_a_log_that_is_trimmed_during_a_look_makes_it_begin_again(
    site: PinningSite,
) -> None:
    first, second = await tree_of(site, LEAF), await tree_of(site, OTHER)
    await site.index.put([result(b"a", first[0])])
    await of_a_peer(site)

    async def meanwhile() -> None:
        await site.index.put([result(b"a", second[0])])
        await site.trim()

    await site.settle(meanwhile=meanwhile)
    assert not (await report(site)).is_settled
    await site.settle()
    assert (await report(site)).is_whole
    await site.evict_all()
    assert await held(site, second) == second


async def test_a_pin_that_has_ended_does_not_come_back_with_an_older_record(
    site: PinningSite,
) -> None:
    now_s = SystemClock().wall_s()
    assert await of_a_peer(site, ticks=6, until_s=now_s + DAY_S) == 1
    assert await of_a_peer(site, ticks=7, until_s=now_s - 1) == 1  # it ends the one before
    await site.settle()
    assert (await site.asked.report()).pins == []
    (record,) = (await site.asked.page(0, 10)).pins
    assert (record.is_removed, record.stamp.ticks) == (True, 7 << 16)
    assert await of_a_peer(site, ticks=6) == 0
    assert (await pin(site)).is_settled


async def test_what_pins_take_is_the_sum_of_what_each_takes_however_entries_change(
    site: PinningSite,
) -> None:
    roots = await tree_of(site, LEAF)
    await pin(site)
    for repeated in (1, 50, 1, 50):
        await site.index.put([result(b"a", *roots[:1] * repeated)])
        await site.settle()
    await site.pass_ms(90_000_000)
    await site.settle()
    found = await site.asked.report()
    assert found.size_bytes == found.pins[0].size_bytes > 0


async def test_what_peers_pin_is_looked_for_and_a_trimmed_log_changes_nothing(
    site: PinningSite,
) -> None:
    digests = await tree_of(site, LEAF)
    await site.index.put([result(b"a", digests[0])])
    await site.trim()
    theirs = wanted()._replace(stamp=Stamp(5 << 16, "peer"))
    assert await site.pins.apply([theirs]) == 1
    assert not (await report(site)).is_settled
    await site.settle()
    found = await report(site)
    assert (found.is_settled, found.entries, found.blobs) == (True, 1, 3)
    gone = theirs._replace(stamp=Stamp(6 << 16, "peer"), is_removed=True)
    assert await site.pins.apply([gone, theirs]) == 1
    await site.settle()
    assert (await site.asked.report()).size_bytes == 0


async def test_a_command_that_died_leaves_no_pin(site: PinningSite) -> None:
    digests = await tree_of(site, LEAF)
    await site.index.put([result(b"a", digests[0])])
    pin_id = await site.pins.records.begin_trial(wanted())
    (entry,) = await site.pins.keepings.candidates(None, 10)
    await site.walker().keep(pin_id, entry.id)
    assert (await site.asked.report()).size_bytes > 0
    assert (await site.asked.page(0, 10)).pins == []
    await site.pass_ms(600_001)
    await site.settle()
    assert (await site.asked.report()).size_bytes == 0
    await site.evict_all()
    assert await held(site, digests) == []


async def test_entries_are_kept_as_far_as_they_can_be_read(site: PinningSite) -> None:
    """Behind what is malformed, and missing ones of every kind: what is read as a whole, too."""
    text = await put(site, b"no directory at all")
    whole = await tree_of(site, LEAF)
    large = Digest(digest_of(b"large").hash, SMALL_BLOB_BYTES + 1)
    artifact = asset_of(f"{ARTIFACT_URN}a", digest_of(b"gone"), text, instance="main")
    await site.index.put([result(b"a", text, large, whole[0]), artifact])
    found = await pin(site)
    assert (found.entries, found.incomplete, found.missing, found.blobs) == (2, 2, 2, 4)
    await site.evict_all()
    assert await held(site, [text, *whole]) == [text, *whole]
