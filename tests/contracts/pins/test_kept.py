"""What pins keep, for how long, and within which bound, whatever the engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection

import pytest

from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageFull
from federation.core.index import EntryKey
from federation.core.pins import PinKind, PinTarget
from federation.core.provenance import Provenance, Source
from tests.contracts.pins.pinned import (
    DAY_S,
    LARGE,
    LEAF,
    MAIN,
    OTHER,
    held,
    names,
    pin,
    put,
    report,
    result,
    tree_of,
)
from tests.contracts.pins.sites import MAKERS, PARAMS, PinningSite
from tests.support.messages import directory


@pytest.fixture(params=PARAMS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[PinningSite]:
    async with MAKERS[request.param](request) as made:
        yield made


async def test_what_is_pinned_stays_with_all_that_it_names(site: PinningSite) -> None:
    mine = await tree_of(site, LEAF, LARGE)
    theirs = await tree_of(site, OTHER)
    kept, gone = result(b"kept", mine[0]), result(b"gone", theirs[0], instance="pr")
    await site.index.put([kept, gone])
    found = await pin(site)
    assert (found.entries, found.blobs, found.missing, found.is_whole) == (1, 4, 0, True)
    await site.evict_all()
    assert await held(site, mine + theirs) == mine
    assert await names(site, kept, gone) == [True, False]


async def test_what_comes_later_is_kept_and_so_is_what_replaces_it(site: PinningSite) -> None:
    await pin(site)
    first, second = await tree_of(site, LEAF), await tree_of(site, OTHER)
    await site.index.put([result(b"a", first[0])])
    await site.settle()
    assert (await report(site)).blobs == 3
    await site.index.put([result(b"a", second[0])])
    await site.settle()
    await site.evict_all()
    assert await held(site, second) == second
    assert await held(site, first) == first  # its former value is given back a day later
    await site.pass_ms(90_000_000)
    await site.settle()
    await site.evict_all()
    assert await held(site, first + second) == second
    assert (await report(site)).blobs == 3


async def test_what_was_unpinned_goes_but_for_what_others_need(site: PinningSite) -> None:
    both, mine = await put(site, LEAF), await put(site, OTHER)
    shared = await put(site, directory({"f": both}))
    alone = await put(site, directory({"f": mine}))
    entries = [result(b"a", shared, alone), result(b"b", shared, instance="rel")]
    await site.index.put(entries)
    other = PinTarget(PinKind.INSTANCE, "rel")
    first, second = await pin(site), await pin(site, other)
    assert (first.blobs, second.blobs) == (4, 0)
    await site.settle()  # nothing is new any more
    assert [each.label for each in await site.pins.unpin([MAIN], "bob")] == ["a target"]
    await site.settle()
    assert (await report(site)).blobs == 2
    await site.evict_all()
    assert await held(site, [both, shared, mine, alone]) == [both, shared]
    assert await names(site, *entries) == [False, True]
    assert await site.pins.unpin([MAIN], "bob") == []


async def test_a_blob_can_be_pinned_and_a_pin_ends_with_its_date(site: PinningSite) -> None:
    digest = await put(site, LARGE)
    target = PinTarget(PinKind.BLOB, digest=digest)
    now_s = SystemClock().wall_s()
    found = await pin(site, target, now_s + DAY_S)
    assert (found.blobs, found.size_bytes > len(LARGE)) == (1, True)
    await site.evict_all()
    assert await held(site, [digest]) == [digest]
    await pin(site, target, now_s - 1)  # only its date changes
    await site.settle()
    assert (await site.asked.report()).pins == []
    await site.evict_all()
    assert await held(site, [digest]) == []


async def test_what_pins_may_not_take_is_refused_and_nothing_of_it_stays(
    site: PinningSite,
) -> None:
    site.reconfigure(pins_max="100K")
    small, large = await tree_of(site, LEAF), await tree_of(site, OTHER, LARGE)
    await site.index.put([result(b"small", small[0]), result(b"large", large[0], instance="rel")])
    kept = await pin(site)
    with pytest.raises(
        StorageFull, match=r"pins may take 102400 bytes.*nothing of it was pinned"
    ) as why:
        await pin(site, PinTarget(PinKind.INSTANCE, "rel"))
    assert str(kept.size_bytes) in str(why.value)
    await site.settle()
    assert (await site.asked.report()).size_bytes == kept.size_bytes
    await site.evict_all()
    assert await held(site, small + large) == small


async def test_later_entries_that_do_not_fit_are_left_out_and_taken_when_there_is_room(
    site: PinningSite,
) -> None:
    site.reconfigure(pins_max="200K")
    await pin(site)
    first, second = await tree_of(site, LARGE), await tree_of(site, os.urandom(150_000))
    await site.index.put([result(b"1", first[0]), result(b"2", second[0])])
    await site.settle()
    found = await report(site)
    assert (found.entries, found.left_out, found.is_whole) == (1, 1, False)
    site.reconfigure(pins_max="400K")
    await site.pass_ms(90_000_000)
    await site.settle()
    found = await report(site)
    assert (found.entries, found.left_out, found.is_whole) == (2, 0, True)
    await site.evict_all()
    assert await held(site, first + second) == first + second


async def test_a_hole_is_told_and_filled_from_elsewhere(site: PinningSite) -> None:
    inner = directory({"f": digest_of(LEAF)})
    root = await put(site, directory({}, {"sub": digest_of(inner)}))
    await site.index.put([result(b"a", root)])
    found = await pin(site)
    assert (found.incomplete, found.missing, found.is_whole) == (1, 1, False)
    elsewhere = {digest_of(data): data for data in (inner, LEAF)}
    asked: list[Digest] = []

    async def fetch(digests: Collection[Digest]) -> None:
        asked.extend(digests)
        pulled = Provenance(Source.UPSTREAM, origin="hq")
        blobs = [(each, elsewhere[each]) for each in digests]
        await site.store.write_small(blobs, provenance=pulled)

    await site.pass_ms(90_000_000)
    await site.settle(fetch)
    assert asked == [digest_of(inner), digest_of(LEAF)]
    found = await report(site)
    assert (found.incomplete, found.missing, found.blobs, found.is_whole) == (0, 0, 3, True)


async def test_a_purge_takes_what_is_pinned_and_says_so(site: PinningSite) -> None:
    digests = await tree_of(site, LEAF)
    entry = result(b"a", digests[0])
    await site.index.put([entry])
    await pin(site)
    things: list[tuple[Digest | EntryKey, str]] = [(digests[2], ""), (entry.key, "")]
    outcomes = await site.purges.purge(things, "bob")
    assert [each.was_pinned for each in outcomes] == [True, True]
    assert await held(site, digests) == digests[:2]
    await site.pass_ms(90_000_000)
    await site.settle()
    found = await site.asked.report()
    assert (found.pins[0].entries, found.size_bytes) == (0, 0)


async def test_a_kept_blob_that_was_damaged_is_missed_and_kept_again(site: PinningSite) -> None:
    digests = await tree_of(site, LARGE)
    await site.index.put([result(b"a", digests[0])])
    whole = await pin(site)
    await site.damage(digests[2])
    assert (await report(site)).incomplete == 1
    (refused,) = await site.store.write_small([(digests[2], LARGE)])
    assert refused is None
    await site.settle()
    found = await report(site)
    assert (found.is_whole, found.size_bytes) == (True, whole.size_bytes)
    await site.evict_all()
    assert await held(site, digests) == digests
