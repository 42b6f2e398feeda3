"""What every Ledger must do: the catalogue's, and the one in memory that other tests use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.index import NO_STAMP, Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.core.replication_log import (
    EntryHead,
    Lane,
    Page,
    Parked,
    PeerRecord,
    PeerState,
    ReplicationLog,
)
from federation.wire.holdings import NAME_BYTES, name_of
from tests.contracts.replication_log.sites import ON_SERVERS, SITES, Site, push, put
from tests.support.polling import until

PULLED = Provenance(Source.UPSTREAM, origin="hq")
FROM_PEER = Provenance(Source.PEER, via=("first", "second"))
LONG_AGO = Stamp(1000 << 16, "other")


@pytest.fixture(
    params=[*SITES, *(pytest.param(name, marks=pytest.mark.servers) for name in ON_SERVERS)]
)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with (SITES | ON_SERVERS)[request.param](request) as made:
        yield made


def named(name: str, value: bytes = b"value", **more: object) -> Entry:
    key = EntryKey(EntryKind.ASSET_BLOB, "main", name.encode())
    return Entry(key, value, f"urn:{name}", **more)  # type: ignore[arg-type]


def parked(peer: str, name: bytes, reason: str = "no", at_s: float = 1.0) -> Parked:
    return Parked(peer, 1, digest_of(name), None, "label", reason, at_s)


async def held(ledger: ReplicationLog, key: EntryKey) -> tuple[int, Entry]:
    (found,) = await ledger.entries_at([key])
    assert found is not None
    return found


async def walk(ledger: ReplicationLog, what: str, limit: int) -> list[Page]:
    pages, position = [], None
    while True:
        page: Page = await getattr(ledger, what)(position, limit)
        pages.append(page)
        assert len(page.digests) + len(page.entries) <= limit
        if page.next is None:
            return pages
        position = page.next


# -- the log ---------------------------------------------------------------------------------


async def test_a_new_log_is_empty_and_whole(site: Site) -> None:
    assert site.ledger.head() == 0
    assert await site.ledger.read(0, 10) == ([], True)
    assert await site.ledger.total_bytes(0) == 0


async def test_each_accepted_object_has_one_row_that_says_all_about_it(site: Site) -> None:
    blob = await push(site, b"blob", FROM_PEER)
    entry = named("e")
    await put(site, entry, provenance=PULLED)
    rows, is_whole = await site.ledger.read(0, 10)
    assert is_whole
    first, second = rows
    assert (first.seq, first.digest, first.key, first.size_bytes) == (1, blob, None, 4)
    assert (first.source, first.via, first.origin) == (Source.PEER, ("first", "second"), "")
    assert (second.seq, second.digest, second.key) == (2, None, entry.key)
    assert (second.source, second.via, second.origin) == (Source.UPSTREAM, (), "hq")
    assert second.size_bytes == len(entry.value) + len(entry.label)
    assert [row.total_bytes for row in rows] == [4, 4 + second.size_bytes]
    assert site.ledger.head() == 2


async def test_a_slice_begins_behind_what_was_asked_for_and_is_bounded(site: Site) -> None:
    for n in range(5):
        await push(site, b"blob %d" % n)
    rows, is_whole = await site.ledger.read(1, 2)
    assert [row.seq for row in rows] == [2, 3]
    assert is_whole
    assert await site.ledger.read(5, 2) == ([], True)


async def test_r25_what_is_held_already_makes_no_row(site: Site) -> None:
    for provenance in (Provenance(), FROM_PEER, PULLED, Provenance()):
        await push(site, b"blob", provenance)
        await put(site, named("e"), provenance=provenance)
    assert site.ledger.head() == 2


async def test_what_only_an_upstream_gave_is_accepted_anew_from_a_client(site: Site) -> None:
    blob = await push(site, b"blob", PULLED)
    await put(site, named("e"), provenance=PULLED)
    await push(site, b"blob")
    await put(site, named("e"))
    rows, _ = await site.ledger.read(2, 10)
    assert [(row.digest, row.source) for row in rows] == [
        (blob, Source.CLIENT),
        (None, Source.CLIENT),
    ]
    seq, entry = await held(site.ledger, named("e").key)
    assert (seq, entry.source) == (4, Source.CLIENT)
    assert entry.stamp > NO_STAMP
    assert await site.store.read_small([blob]) == [b"blob"]
    await push(site, b"blob", FROM_PEER)  # it is the client's now
    assert site.ledger.head() == 4


async def test_so_is_a_large_one_in_a_batch_a_stream_or_without_its_bytes(site: Site) -> None:
    async def chunks(data: bytes) -> AsyncIterator[bytes]:
        yield data

    blobs = [b"1" * 100_000, b"2" * 100_000, b"3" * 100_000]
    for data in blobs:
        await push(site, data, PULLED)
    await push(site, blobs[0])
    assert not await site.store.write(digest_of(blobs[1]), chunks(blobs[1]))
    assert await site.store.accept_held(digest_of(blobs[2]), provenance=PULLED)
    assert await site.store.accept_held(digest_of(blobs[2]))
    rows, _ = await site.ledger.read(3, 10)
    assert [(row.digest, row.source) for row in rows] == [
        (digest_of(data), Source.CLIENT) for data in blobs
    ]


async def test_waiting_ends_with_the_row_that_is_waited_for(site: Site) -> None:
    waiting = asyncio.ensure_future(site.ledger.wait_beyond(1, 30))
    await push(site, b"one")
    await asyncio.sleep(0)
    assert not waiting.done()
    await push(site, b"two")
    assert await waiting is True
    assert await site.ledger.wait_beyond(1, 0) is True
    assert await site.ledger.wait_beyond(2, 0.01) is False


async def test_a_trimmed_log_says_so_to_who_has_not_read_it(site: Site) -> None:
    for n in range(6):
        await push(site, b"%d" % n)
    await site.trim(4)
    rows, is_whole = await site.ledger.read(2, 10)
    assert ([row.seq for row in rows], is_whole) == ([5, 6], False)
    rows, is_whole = await site.ledger.read(4, 10)
    assert ([row.seq for row in rows], is_whole) == ([5, 6], True)
    assert [await site.ledger.total_bytes(seq) for seq in (2, 4, 5, 6, 9)] == [4, 4, 5, 6, 6]


async def test_r22_reading_from_beyond_the_end_is_not_whole(site: Site) -> None:
    await push(site, b"one")
    assert await site.ledger.read(2, 10) == ([], False)


# -- entries ---------------------------------------------------------------------------------


async def test_each_new_value_of_a_name_has_a_later_stamp_and_row(site: Site) -> None:
    stamps = []
    for n in range(3):
        await put(site, named("e", b"%d" % n))
        seq, entry = await held(site.ledger, named("e").key)
        assert seq == n + 1
        assert entry.stamp.node == site.ledger.node_id
        stamps.append(entry.stamp)
    assert stamps == sorted(set(stamps))


async def test_r15_what_a_peer_sends_wins_by_its_stamp(site: Site) -> None:
    await put(site, named("e", b"ours"))
    _, ours = await held(site.ledger, named("e").key)
    older = Stamp(ours.stamp.ticks - 1, "other")
    await put(site, named("e", b"theirs", stamp=older), provenance=FROM_PEER)
    assert (await held(site.ledger, ours.key))[1].value == b"ours"
    assert site.ledger.head() == 1
    newer = Stamp(ours.stamp.ticks + 1, "other")
    await put(site, named("e", b"theirs", stamp=newer), provenance=FROM_PEER)
    seq, entry = await held(site.ledger, ours.key)
    assert (seq, entry.value, entry.stamp, entry.source) == (2, b"theirs", newer, Source.PEER)


@pytest.mark.parametrize("first", [b"one", b"two"])
async def test_r15_equal_stamps_are_decided_by_the_value_alike_everywhere(
    site: Site, first: bytes
) -> None:
    second = b"two" if first == b"one" else b"one"
    for value in (first, second):
        await put(site, named("e", value, stamp=LONG_AGO), provenance=FROM_PEER)
    assert (await held(site.ledger, named("e").key))[1].value == b"one"


async def test_r19_a_push_here_is_later_than_anything_met_from_a_fast_clock(site: Site) -> None:
    _, entry = await _after_put(site, named("e"))
    fast = Stamp(entry.stamp.ticks + (60_000 << 16), "other")
    await put(site, named("other", stamp=fast), provenance=FROM_PEER)
    _, entry = await _after_put(site, named("e", b"newer"))
    assert entry.stamp > fast


async def _after_put(site: Site, entry: Entry) -> tuple[int, Entry]:
    await put(site, entry)
    return await held(site.ledger, entry.key)


async def test_a_later_stamp_of_the_same_value_is_taken_over_and_told(site: Site) -> None:
    _, ours = await _after_put(site, named("e"))
    later = Stamp(ours.stamp.ticks + 10, "other")
    await put(site, ours._replace(stamp=later), provenance=FROM_PEER)
    between = Stamp(ours.stamp.ticks + 5, "third")
    await put(site, named("e", b"between", stamp=between), provenance=FROM_PEER)
    seq, entry = await held(site.ledger, ours.key)
    assert (seq, entry.value, entry.stamp) == (2, ours.value, later)


async def test_a_peer_without_stamps_counts_as_a_client(site: Site) -> None:
    await put(site, named("e", b"ours"))
    await put(site, named("e", b"theirs"), provenance=FROM_PEER)
    _, entry = await held(site.ledger, named("e").key)
    assert (entry.value, entry.source) == (b"theirs", Source.PEER)
    assert entry.stamp.node == site.ledger.node_id


async def test_what_an_upstream_says_has_no_stamp_and_replaces_nobody_s_push(site: Site) -> None:
    await put(site, named("pulled"), provenance=PULLED)
    assert (await held(site.ledger, named("pulled").key))[1].stamp == NO_STAMP
    await put(site, named("pushed", b"ours"))
    await put(site, named("pushed", b"theirs"), provenance=PULLED)
    assert (await held(site.ledger, named("pushed").key))[1].value == b"ours"
    assert site.ledger.head() == 2


async def test_entries_are_found_in_the_order_asked_for_and_absent_ones_are_none(
    site: Site,
) -> None:
    await put(site, named("a"), named("b"))
    keys = [named("b").key, named("no").key, named("a").key]
    found = await site.ledger.entries_at(keys)
    assert [row and (row[0], row[1].label) for row in found] == [
        (2, "urn:b"),
        None,
        (1, "urn:a"),
    ]


async def test_heads_say_all_of_an_entry_but_its_value(site: Site) -> None:
    await put(site, named("a", b"12345", expires_at_s=2e9), named("b"), provenance=PULLED)
    await put(site, named("b", b"another"))
    keys = [named("b").key, named("no").key, named("a").key]
    assert await site.ledger.heads_at(keys) == [
        EntryHead(3, named("b").key, "urn:b", 7, None, Source.CLIENT),
        None,
        EntryHead(1, named("a").key, "urn:a", 5, 2e9, Source.UPSTREAM),
    ]


# -- what is held ----------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_walk_visits_all_that_is_held(site: Site, limit: int) -> None:
    blobs = {await push(site, b"%d" % n) for n in range(7)}
    pulled = {await push(site, b"pulled %d" % n, PULLED) for n in range(2)}
    entries = [named(f"e{n}") for n in range(5)]
    await put(site, *entries)
    pages = await walk(site.ledger, "blobs", limit)
    assert {digest for page in pages for digest in page.digests} == blobs | pulled
    assert {digest for page in pages for digest in page.pulled} == pulled
    pages = await walk(site.ledger, "entries", limit)
    assert {entry.key for page in pages for entry in page.entries} == {e.key for e in entries}
    assert all(entry.stamp > NO_STAMP for page in pages for entry in page.entries)


async def test_a_walk_through_nothing_ends(site: Site) -> None:
    for what in ("blobs", "entries"):
        pages = await walk(site.ledger, what, 10)
        assert not any(page.digests or page.entries for page in pages)


async def test_a_walk_leaves_out_what_is_gone(site: Site) -> None:
    gone = await push(site, b"gone")
    kept = await push(site, b"kept")
    await site.remove(gone)
    pages = await walk(site.ledger, "blobs", 10)
    assert {digest for page in pages for digest in page.digests} == {kept}


async def test_what_was_found_damaged_is_known_until_it_is_back(site: Site) -> None:
    blob, other = await push(site, b"blob"), await push(site, b"other")
    await site.damage(blob)
    assert await site.ledger.is_damaged(blob)
    assert not await site.ledger.is_damaged(other)
    await push(site, b"blob")
    assert not await site.ledger.is_damaged(blob)


async def test_what_is_held_is_known_by_the_beginnings_of_digests(site: Site) -> None:
    small, large = await push(site, b"blob"), await push(site, b"x" * 300_000)
    other = digest_of(b"blob", DigestFunction.BLAKE3)
    gone = await push(site, b"gone")
    await site.remove(gone)
    asked = [name_of(each) for each in (small, other, gone, large, digest_of(b"never"))]
    assert await site.ledger.held_like(asked) == {name_of(small), name_of(large)}
    assert await site.ledger.held_like([]) == set()
    # The neighbours of a name are other names.
    near = [number(name_of(small)) + step for step in (-1, 1)]
    assert await site.ledger.held_like([each.to_bytes(NAME_BYTES, "big") for each in near]) == set()
    many = [name_of(await push(site, b"%d" % at)) for at in range(300)]
    assert await site.ledger.held_like(many + asked) == {*many, name_of(small), name_of(large)}


def number(name: bytes) -> int:
    return int.from_bytes(name, "big")


# -- peers -----------------------------------------------------------------------------------

RECORD = PeerRecord(
    "tokyo",
    Lane.WINDOW,
    cursor=0,
    state=PeerState.FOLLOWING,
    reason="",
    position="at:1",
    node_id="theirs",
    log_seen="epoch.7",
    served=3,
    sent_objects=4,
    sent_bytes=5,
    last_success_s=6.5,
    last_error="late",
    last_error_s=7.5,
    pins_pulled=True,
)


async def test_a_record_is_kept_as_saved_one_for_each_lane(site: Site) -> None:
    always = PeerRecord("tokyo")
    await site.ledger.save([RECORD, always])
    assert sorted(await site.ledger.peers()) == sorted([RECORD, always])
    moved = RECORD._replace(state=PeerState.NEEDS_RESYNC, reason="told", sent_bytes=9)
    await site.ledger.save([moved])
    assert sorted(await site.ledger.peers()) == sorted([moved, always])


async def test_a_request_to_reconcile_survives_a_save_that_does_not_know_of_it(site: Site) -> None:
    await site.ledger.save([RECORD, RECORD._replace(name="paris")])
    await site.ledger.want("tokyo")
    await site.ledger.want("tokyo")
    await site.ledger.save([RECORD])
    wanted = {record.name: record.wanted for record in await site.ledger.peers()}
    assert wanted == {"tokyo": 2, "paris": 0}


async def test_a_mark_survives_a_save_that_does_not_know_of_it(site: Site) -> None:
    await site.ledger.save([RECORD])
    await site.mark("tokyo", Lane.WINDOW, "no room")
    await site.ledger.save([RECORD._replace(sent_objects=8)])
    (marked,) = await site.ledger.peers()
    assert (marked.state, marked.reason) == (PeerState.NEEDS_RESYNC, "no room")
    assert (marked.marks, marked.position, marked.sent_objects) == (1, "", 8)
    await site.ledger.save([marked._replace(state=PeerState.FOLLOWING, reason="")])
    (followed,) = await site.ledger.peers()
    assert (followed.state, followed.reason) == (PeerState.FOLLOWING, "")


async def test_r23_a_log_trimmed_beyond_a_cursor_marks_who_followed_it(site: Site) -> None:
    for n in range(6):
        await push(site, b"%d" % n)
    late = PeerRecord("late", cursor=1, state=PeerState.FOLLOWING, reason="")
    await site.ledger.save([late, late._replace(name="there", cursor=4)])
    await site.trim(4)
    states = {record.name: record.state for record in await site.ledger.peers()}
    assert states == {"late": PeerState.NEEDS_RESYNC, "there": PeerState.FOLLOWING}


async def test_r22_a_cursor_beyond_the_end_needs_a_resync(site: Site) -> None:
    await push(site, b"one")
    record = PeerRecord("tokyo", cursor=2, state=PeerState.FOLLOWING, reason="", position="x")
    await site.ledger.save([record, record._replace(name="paris", cursor=1)])
    found = {record.name: record for record in await site.ledger.peers()}
    assert found["tokyo"].state is PeerState.NEEDS_RESYNC
    assert found["tokyo"].reason
    assert not found["tokyo"].position
    assert found["paris"].state is PeerState.FOLLOWING


async def test_a_dropped_peer_is_forgotten_with_what_was_parked_for_it(site: Site) -> None:
    await site.ledger.save([RECORD, RECORD._replace(lane=Lane.ALWAYS), PeerRecord("paris")])
    await site.ledger.park([parked("tokyo", b"a"), parked("paris", b"a")])
    await site.ledger.drop("tokyo")
    assert [record.name for record in await site.ledger.peers()] == ["paris"]
    assert await site.ledger.parked_counts() == {"paris": 1}


# -- parked ----------------------------------------------------------------------------------


async def test_what_is_parked_is_kept_as_it_was_given_oldest_first(site: Site) -> None:
    blob = parked("tokyo", b"a", at_s=1.0)
    key = named("e").key
    entry = Parked("tokyo", 9, None, key, "urn:e", "refused", 2.0)
    await site.ledger.park([blob])
    await site.ledger.park([entry, parked("paris", b"a", at_s=3.0)])
    assert await site.ledger.parked("tokyo") == [blob, entry]
    assert [row.peer for row in await site.ledger.parked()] == ["tokyo", "tokyo", "paris"]
    assert await site.ledger.parked(limit=1) == [blob]
    assert await site.ledger.parked("nobody") == []
    assert await site.ledger.parked_counts() == {"tokyo": 2, "paris": 1}


async def test_parking_again_counts_a_try_and_answers_a_request(site: Site) -> None:
    await site.ledger.park([parked("tokyo", b"a"), parked("paris", b"a")])
    assert await site.ledger.ask_retry("tokyo") == 1
    (asked,) = await site.ledger.parked("tokyo")
    assert asked.retry
    await site.ledger.park([asked._replace(seq=7, reason="still no", parked_at_s=5.0)])
    (again,) = await site.ledger.parked("tokyo")
    assert (again.seq, again.reason, again.parked_at_s) == (7, "still no", 5.0)
    assert (again.tries, again.retry) == (2, False)
    assert await site.ledger.ask_retry() == 2
    assert all(row.retry for row in await site.ledger.parked())


async def test_what_is_due_is_found_by_its_tries_and_what_was_asked_for_at_once(
    site: Site,
) -> None:
    ledger, waits_s = site.ledger, (10.0, 60.0)
    first, second = parked("tokyo", b"a", at_s=100.0), parked("tokyo", b"b", at_s=101.0)
    await ledger.park([second, first, parked("paris", b"a", at_s=1.0)])
    assert await ledger.parked_due("tokyo", 109.9, waits_s, 10) == []
    assert await ledger.parked_due("tokyo", 110.0, waits_s, 10) == [first]
    assert await ledger.parked_due("tokyo", 111.0, waits_s, 10) == [first, second]
    assert await ledger.parked_due("tokyo", 111.0, waits_s, 1) == [first]
    assert len(await ledger.parked_due("tokyo", 99.0, waits_s, 10)) == 2  # a clock set back
    for _ in range(3):
        await ledger.park([first])
    (again,) = await ledger.parked_due("tokyo", 120.0, waits_s, 10)
    assert again.digest == second.digest
    found = await ledger.parked_due("tokyo", 160.0, waits_s, 10)
    assert [each.digest for each in found] == [first.digest, second.digest]
    await ledger.ask_retry("tokyo")
    assert len(await ledger.parked_due("tokyo", 102.0, waits_s, 10)) == 2


async def test_what_is_unparked_is_forgotten_for_that_peer_alone(site: Site) -> None:
    await site.ledger.park([parked("tokyo", b"a"), parked("tokyo", b"b"), parked("paris", b"a")])
    await site.ledger.unpark([parked("tokyo", b"a"), parked("tokyo", b"absent")])
    left: list[tuple[str, Digest | None]] = [
        (row.peer, row.digest) for row in await site.ledger.parked()
    ]
    assert left == [("tokyo", digest_of(b"b")), ("paris", digest_of(b"a"))]


# -- the lead --------------------------------------------------------------------------------


async def test_one_process_leads_until_it_closes(site: Site) -> None:
    other = site.another()
    await until(site.ledger.try_to_lead, "the first one leads")
    assert site.ledger.try_to_lead()
    assert not other.try_to_lead()
    assert (site.ledger.holds_lead(), other.holds_lead()) == (True, False)
    site.ledger.close()
    await until(other.try_to_lead, "the other one leads")
    other.close()
