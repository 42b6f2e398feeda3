"""Finding entries here and at upstreams: who is asked, what is kept, and what wins."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from federation.core import hops
from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.core.index import FetchedAsset
from federation.core.provenance import Provenance, Source
from federation.remote.failures import FailureKind, RemoteFailed
from federation.upstream.index_queries import IndexQueries
from federation.upstream.upstream import Upstream
from federation.wire.action_result import key_of
from tests.support.process_client import action_result
from tests.upstream.fakes import until
from tests.upstream.finder_site import AwayIndex, finder_over, there

URI = "urn:test:one"
ACTION = digest_of(b"action")
OLD, NEW, OURS = b"old" * 100, b"new" * 100, b"ours" * 100


async def test_a_pulled_entry_is_kept_with_where_it_came_from(tmp_path: Path) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    async with finder_over(tmp_path, up) as here:
        assert await here.fetch(URI) == digest
        entry = await here.held(URI)
    assert entry is not None
    assert (entry.source, entry.origin) == (Source.UPSTREAM, "up")


async def test_d02_without_the_index_a_name_is_a_miss_and_no_upstream_is_asked(
    tmp_path: Path,
) -> None:
    """What an upstream gave could not be kept, and nobody knows whether it was purged."""
    up = there([], "up")
    up.names(URI, OLD)
    async with finder_over(tmp_path, up, index=AwayIndex()) as here:
        assert await here.fetch(URI) is None
        assert await here.result(ACTION) is None
        assert await here.finder.keys_like([key_of("", ACTION)]) == []
    assert not up.index.asked


async def test_u07_a_look_up_waits_for_an_upstream_that_asked_for_a_moment(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    later = RemoteFailed("up", FailureKind.EXHAUSTED, "later", retry_after_s=0.2)
    up.upstream.note(later)
    async with finder_over(tmp_path, up) as here:
        assert await here.fetch(URI) == digest


async def test_a_look_up_does_not_wait_for_a_resting_upstream_that_has_no_such_entries(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    storage = there([], "storage", clock, serves_index=False)
    others = there([], "others", clock, uri_globs=("urn:other:*",))
    for each in (storage, others):
        later = RemoteFailed(each.index.name, FailureKind.EXHAUSTED, "later", retry_after_s=5.0)
        each.upstream.note(later)
    async with finder_over(tmp_path, storage, others, clock=clock) as here:
        before_s = clock.monotonic_s()
        assert await here.fetch(URI) is None
        assert clock.monotonic_s() == before_s


@pytest.mark.parametrize("blobs_elsewhere", [False, True])
async def test_p1_a_result_that_contradicts_itself_is_taken_from_no_upstream(
    tmp_path: Path, blobs_elsewhere: bool
) -> None:
    up, other = there([], "up"), there([], "other")
    digest = digest_of(OLD)
    up.store.blobs[digest] = other.store.blobs[digest] = OLD
    right = action_result([("a", digest)])
    wrong = action_result([("a", digest)])
    wrong.output_files[0].contents = NEW
    up.index.results[ACTION] = wrong.SerializeToString()
    other.index.results[ACTION] = right.SerializeToString()
    async with finder_over(tmp_path, up, other, blobs_elsewhere=blobs_elsewhere) as here:
        assert await here.result(ACTION) == right.SerializeToString()


async def test_u16_what_was_pushed_here_wins_and_nobody_is_asked(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, OLD)
    async with finder_over(tmp_path, up, ttl_s=0.0) as here:
        await here.push(URI, OURS)
        assert await here.fetch(URI) == digest_of(OURS)
    assert up.index.asked == 0


async def test_u16_what_is_pushed_while_the_upstream_answers_is_not_replaced(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    up.names(URI, OLD)
    up.index.gate = asyncio.Event()
    async with finder_over(tmp_path, up) as here:
        asking = asyncio.ensure_future(here.fetch(URI))
        await until(lambda: up.index.asked == 1)
        await here.push(URI, OURS)
        up.index.gate.set()
        await asking
        assert await here.fetch(URI) == digest_of(OURS)


async def test_u16_a_pushed_entry_with_holes_is_not_replaced_by_the_upstreams(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    up.names(URI, OLD)
    async with finder_over(tmp_path, up) as here:
        await here.push(URI, OURS, holds=False)
        assert await here.fetch(URI) == digest_of(OLD)
        entry = await here.held(URI)
        assert entry is not None
        assert entry.source is Source.CLIENT
        await here.storage.write_small([(digest_of(OURS), OURS)])
        assert await here.fetch(URI) == digest_of(OURS)


async def test_a_hit_is_recalled_until_anything_of_it_is_gone_or_changes(tmp_path: Path) -> None:
    async with finder_over(tmp_path, there([], "up")) as here:
        await here.push(URI, OURS)
        assert here.recalled(URI) is None, "it was not looked at yet"
        assert await here.fetch(URI) == digest_of(OURS)
        assert here.recalled(URI) == digest_of(OURS)
        here.storage.core.epoch.bump()
        assert here.recalled(URI) is None
        assert await here.fetch(URI) == digest_of(OURS)
        assert here.recalled(URI) == digest_of(OURS)
        await here.push(URI, NEW, holds=False)
        assert here.recalled(URI) is None
        assert await here.fetch(URI) is None
        assert here.recalled(URI) is None


async def test_the_first_uri_wins_also_where_only_the_second_is_recalled(tmp_path: Path) -> None:
    async with finder_over(tmp_path, there([], "up")) as here:
        await here.push("urn:test:two", OLD)
        for _ in range(2):
            assert await here.fetch(URI, "urn:test:two") == digest_of(OLD)
        await here.push(URI, OURS)
        for _ in range(2):
            assert await here.fetch(URI, "urn:test:two") == digest_of(OURS)


async def test_a_pulled_entry_is_never_recalled_as_its_upstream_may_change_it(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    async with finder_over(tmp_path, up) as here:
        await here.storage.write_small([(digest, OLD)])
        for _ in range(2):
            assert await here.fetch(URI) == digest
        assert here.recalled(URI) is None


async def test_an_index_whose_callers_keep_blobs_elsewhere_recalls_nothing(tmp_path: Path) -> None:
    async with finder_over(tmp_path, blobs_elsewhere=True) as here:
        await here.push(URI, OURS)
        for _ in range(2):
            assert await here.fetch(URI) == digest_of(OURS)
        assert here.recalled(URI) is None


async def test_a_fresh_entry_is_served_without_asking(tmp_path: Path) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    async with finder_over(tmp_path, up) as here:
        assert await here.fetch(URI) == digest
        up.names(URI, NEW)
        assert await here.fetch(URI) == digest
    assert up.index.asked == 1


async def test_a_stale_entry_is_asked_for_again_since_names_are_mutable(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, OLD)
    async with finder_over(tmp_path, up, ttl_s=0.0) as here:
        assert await here.fetch(URI) == digest_of(OLD)
        up.names(URI, NEW)
        assert await here.fetch(URI) == digest_of(NEW)
        up.is_down = True
        assert await here.fetch(URI) == digest_of(NEW)
    assert up.index.asked == 3


async def test_a_stale_entry_is_served_while_the_upstream_is_down(tmp_path: Path) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    async with finder_over(tmp_path, up, ttl_s=0.0) as here:
        assert await here.fetch(URI) == digest
        assert await here.storage.find_missing([digest]) == {digest}
        await here.storage.write_small([(digest, OLD)])  # a client read it
        up.is_down = True
        for _ in range(8):
            assert await here.fetch(URI) == digest
    assert not up.upstream.is_up


async def test_a_stale_entry_that_the_upstream_lacks_by_now_is_served_as_it_is(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    async with finder_over(tmp_path, up, ttl_s=0.0) as here:
        assert await here.fetch(URI) == digest
        up.index.assets.clear()
        assert await here.fetch(URI) == digest


async def test_u15_an_incomplete_closure_at_the_upstream_is_a_miss_and_asked_for_again(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD, holds=False)
    async with finder_over(tmp_path, up) as here:
        assert await here.fetch(URI) is None
        assert await here.held(URI) is None
        up.store.blobs[digest] = OLD
        up.upstream.answers.forget()  # as after absent-for
        assert await here.fetch(URI) == digest
        assert await here.held(URI) is not None
    assert up.index.asked == 2


async def test_a_closure_may_be_here_and_at_the_upstream_together(tmp_path: Path) -> None:
    up = there([], "up")
    result = action_result([("a", digest_of(OLD)), ("b", digest_of(NEW))]).SerializeToString()
    up.index.results[ACTION] = result
    up.store.blobs[digest_of(OLD)] = OLD
    async with finder_over(tmp_path, up) as here:
        assert await here.result(ACTION) is None
        await here.storage.write_small([(digest_of(NEW), NEW)])
        assert await here.result(ACTION) == result
        up.is_down = True
        up.upstream.answers.forget()
        assert await here.result(ACTION) is None  # half of it is out of reach


async def test_upstreams_are_asked_in_order_and_those_behind_a_hit_are_not(
    tmp_path: Path,
) -> None:
    order: list[str] = []
    first, second, third = (there(order, name) for name in ("1", "2", "3"))
    second.names(URI, OLD)
    third.names(URI, NEW)
    third.names("urn:test:three", NEW)
    async with finder_over(tmp_path, first, second, third) as here:
        assert await here.fetch(URI) == digest_of(OLD)
        assert order == ["1", "2"]
        assert await here.fetch("urn:test:three") == digest_of(NEW)
        assert order == ["1", "2", "1", "2", "3"]
        assert await here.fetch("urn:test:nowhere") is None
        assert order[5:] == ["1", "2", "3"]


async def test_an_upstream_whose_closure_has_holes_makes_room_for_the_next(tmp_path: Path) -> None:
    order: list[str] = []
    first, second = there(order, "1"), there(order, "2")
    first.names(URI, OLD, holds=False)
    second.names(URI, NEW)
    async with finder_over(tmp_path, first, second) as here:
        assert await here.fetch(URI) == digest_of(NEW)
        entry = await here.held(URI)
        assert entry is not None
        assert entry.origin == "2"


async def test_one_that_is_down_is_passed_over_and_is_no_error(tmp_path: Path) -> None:
    order: list[str] = []
    first, second = there(order, "1"), there(order, "2")
    first.is_down = True
    second.names(URI, OLD)
    async with finder_over(tmp_path, first, second) as here:
        assert await here.fetch(URI) == digest_of(OLD)
        for number in range(8):
            assert await here.fetch(f"urn:test:{number}") is None
    assert order.count("1") == 5  # then its breaker was open


async def test_u04_one_that_is_silent_is_overtaken(tmp_path: Path) -> None:
    order: list[str] = []
    first, second = there(order, "1", hedge_delay_s=0.02), there(order, "2")
    first.index.gate = asyncio.Event()
    second.names(URI, OLD)
    async with finder_over(tmp_path, first, second) as here, asyncio.timeout(60):
        assert await here.fetch(URI) == digest_of(OLD)
    assert first.upstream.breaker.failures == 1


@pytest.mark.parametrize(
    ("globs", "asked"), [((), 1), (("urn:test:*",), 1), (("urn:other:*",), 0)], ids=str
)
async def test_globs_say_which_assets_an_upstream_is_asked_about(
    tmp_path: Path, globs: tuple[str, ...], asked: int
) -> None:
    up = there([], "up", uri_globs=globs)
    up.names(URI, OLD)
    async with finder_over(tmp_path, up) as here:
        assert (await here.fetch(URI) is not None) == bool(asked)
    assert up.index.asked == asked


async def test_one_that_is_not_trusted_is_asked_for_assets_but_not_for_results(
    tmp_path: Path,
) -> None:
    up = there([], "up", trusts_action_results=False)
    digest = up.names(URI, OLD)
    up.index.results[ACTION] = action_result([("a", digest)]).SerializeToString()
    async with finder_over(tmp_path, up) as here:
        assert await here.result(ACTION) is None
        assert up.index.asked == 0
        assert await here.fetch(URI) == digest


async def test_an_index_and_a_storage_are_one_cache_together(tmp_path: Path) -> None:
    order: list[str] = []
    index = there(order, "index", serves_blobs=False)
    storage = there(order, "storage", serves_index=False)
    digest = index.names(URI, OLD, holds=False)
    async with finder_over(tmp_path, index, storage, prefetch="all") as here:
        assert await here.fetch(URI) is None
        storage.store.blobs[digest] = OLD
        storage.upstream.answers.forget()
        assert await here.fetch(URI) == digest
        await until(lambda: here.prefetcher.idle)
        assert await here.storage.find_missing([digest]) == set()
    assert set(order) == {"index"}
    assert index.store.finds == 0


async def test_u08_a_miss_is_remembered_shortly_and_what_is_pushed_is_there_at_once(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    async with finder_over(tmp_path, up) as here:
        for _ in range(5):
            assert await here.fetch(URI) is None
        assert up.index.asked == 1
        await here.push(URI, OURS)
        assert await here.fetch(URI) == digest_of(OURS)
        up.upstream.absent_entries.forget()
        assert await here.fetch("urn:test:other") is None
    assert up.index.asked == 2


async def test_u17_a_request_that_was_here_before_is_answered_from_here(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, OLD)
    async with finder_over(tmp_path, up, ttl_s=0.0) as here:
        with hops.serving(hops.Hops(("other", "me"), "other")):
            assert await here.fetch(URI) is None
            await here.push(URI, OURS)
            assert await here.fetch(URI) == digest_of(OURS)
    assert up.index.asked == 0


async def test_offline_asks_nobody(tmp_path: Path) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    async with finder_over(tmp_path, up, ttl_s=0.0) as here:
        here.shared.offline = True
        assert await here.fetch(URI) is None
        here.shared.offline = False
        assert await here.fetch(URI) == digest
        await here.storage.write_small([(digest, OLD)])
        here.shared.offline = True
        assert await here.fetch(URI) == digest
    assert up.index.asked == 1


async def test_the_expiry_that_the_upstream_said_is_kept(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, OLD)
    up.index.assets[URI] = FetchedAsset(URI, digest_of(OLD), 4_000_000_000.25)
    async with finder_over(tmp_path, up) as here:
        await here.fetch(URI)
        entry = await here.held(URI)
    assert entry is not None
    assert entry.expires_at_s == 4_000_000_000.25


async def test_a_miss_of_one_name_says_nothing_about_others_asked_beside_it(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    weak = up.names("urn:test:weak", OLD)
    async with finder_over(tmp_path, up) as here:
        assert await here.fetch(URI) is None
        assert await here.fetch(URI, "urn:test:weak") == weak
        assert await here.fetch(URI) is None
    assert up.index.asked == 2


async def test_a_miss_with_a_checksum_says_nothing_about_the_uri_without_it(tmp_path: Path) -> None:
    clock = ManualClock()
    up = there([], "up", clock)
    checksum = f"sha256-{b64encode(digest_of(b'another').hash).decode()}"
    async with finder_over(tmp_path, up, clock=clock) as here:
        for _ in range(2):
            assert await here.fetch(URI, checksum=checksum) is None
        assert up.index.asked == 1, "a miss is remembered"
        theirs = up.names(URI, OLD)
        assert await here.fetch(URI) == theirs


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names the upstream of each request that has begun a question or joined one."""
    names: list[str] = []
    ask = IndexQueries._ask

    def noting(self: IndexQueries, upstream: Upstream, *args: Any) -> Any:
        names.append(upstream.name)
        return ask(self, upstream, *args)

    monkeypatch.setattr(IndexQueries, "_ask", noting)
    return names


async def test_fifty_that_ask_at_once_cost_one_question(tmp_path: Path, joined: list[str]) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    up.index.gate = asyncio.Event()
    async with finder_over(tmp_path, up) as here:
        asking = [asyncio.ensure_future(here.fetch(URI)) for _ in range(50)]
        await until(lambda: len(joined) == 50)
        await asyncio.sleep(0)
        up.index.gate.set()
        assert await asyncio.gather(*asking) == [digest] * 50
    assert up.index.asked == 1


async def test_requests_whose_further_names_differ_do_not_share_a_question(
    tmp_path: Path, joined: list[str]
) -> None:
    up = there([], "up")
    theirs = up.names("urn:test:theirs", OLD)
    up.index.gate = asyncio.Event()
    async with finder_over(tmp_path, up) as here:
        asking = [
            asyncio.ensure_future(here.fetch(URI, other))
            for other in ("urn:test:theirs", "urn:test:ours")
        ]
        await until(lambda: len(joined) == 2)
        up.index.gate.set()
        assert await asyncio.gather(*asking) == [theirs, None]
    assert up.index.asked == 2


async def test_one_that_leaves_does_not_break_the_others(tmp_path: Path, joined: list[str]) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    up.index.gate = asyncio.Event()
    async with finder_over(tmp_path, up) as here:
        asking = [asyncio.ensure_future(here.fetch(URI)) for _ in range(3)]
        await until(lambda: len(joined) == 3)
        asking[0].cancel()
        up.index.gate.set()
        assert await asyncio.gather(*asking[1:]) == [digest] * 2
        with pytest.raises(asyncio.CancelledError):
            await asking[0]
    assert up.index.asked == 1


async def test_u17_requests_that_passed_different_nodes_do_not_share_a_question(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    up.names(URI, OLD)
    up.index.gate = asyncio.Event()
    async with finder_over(tmp_path, up) as here:
        mine = asyncio.ensure_future(here.fetch(URI))
        await until(lambda: up.index.asked == 1)
        with hops.serving(hops.Hops(("other",), "other")):
            theirs = asyncio.ensure_future(here.fetch(URI))
        await until(lambda: up.index.asked == 2)
        up.index.gate.set()
        assert await mine == await theirs == digest_of(OLD)


async def test_a_full_node_still_answers_and_asks_again(tmp_path: Path) -> None:
    up = there([], "up")
    outputs = [(f"{number}" * 50, digest_of(OLD)) for number in range(9)]
    result = action_result(outputs).SerializeToString()
    up.index.results[ACTION] = result
    up.store.blobs[digest_of(OLD)] = OLD
    async with finder_over(tmp_path, up, quota=37_500) as here:
        filler = b"f" * 32_000
        await here.storage.write_small([(digest_of(filler), filler)])
        assert await here.result(ACTION) == result
        assert await here.result(ACTION) == result
        assert await here.storage.find_missing([digest_of(filler)]) == set()
    assert up.index.asked == 2


async def test_an_expired_push_gives_way_to_what_an_upstream_says(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, NEW)
    async with finder_over(tmp_path, up) as here:
        await here.push(URI, OURS)
        pushed = await here.held(URI)
        assert pushed is not None
        await here.storage.put([pushed._replace(expires_at_s=1.0)])
        came = pushed._replace(value=b"newer", expires_at_s=None)
        await here.storage.put([came], provenance=Provenance(Source.UPSTREAM, origin="up"))
        held = await here.held(URI)
        assert held is not None
        assert (held.value, held.source) == (b"newer", Source.UPSTREAM)


async def test_the_rest_of_a_pulled_entry_is_brought_here_after_a_restart_too(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    digest = up.names(URI, OLD)
    async with finder_over(tmp_path, up, prefetch="none") as here:
        await here.fetch(URI)
        assert await here.storage.find_missing([digest]) == {digest}
    async with finder_over(tmp_path, up, prefetch="all") as here:
        assert await here.fetch(URI) == digest
        await until(lambda: here.prefetcher.idle)
        assert await here.storage.find_missing([digest]) == set()
    assert up.index.asked == 1
