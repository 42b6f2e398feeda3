"""The parts without I/O: hops, bandwidth, groups, turns."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core import hops
from federation.core.hops import (
    HOPS_MAX,
    NOWHERE,
    ORIGIN_HEADER,
    REPLICATES_HEADER,
    STAMP_HEADER,
    TICKS_MAX,
    VIA_HEADER,
    Hops,
)
from federation.core.index import Stamp
from federation.core.token_bucket import TokenBucket
from federation.remote.codec import grouped
from federation.remote.failures import FailureKind, RemoteFailed
from federation.remote.slots import Slots
from federation.wire import node_identity
from federation.wire.node_identity import (
    LOG_HEADER,
    NODE_HEADER,
    UNKNOWN,
    LogPosition,
    NodeIdentity,
)

IDS = st.text("abcXYZ0189._-", min_size=1, max_size=64)


STAMPS = st.builds(Stamp, st.integers(1, TICKS_MAX), IDS)


@given(st.lists(IDS, max_size=HOPS_MAX), st.none() | IDS, st.booleans(), st.none() | STAMPS)
def test_hops_survive_their_headers(
    via: list[str], origin: str | None, replicates: bool, stamp: Stamp | None
) -> None:
    there = Hops(tuple(via), origin, replicates, stamp)
    assert hops.parse(hops.headers(there)) == there


@pytest.mark.parametrize(
    "via",
    [
        "",
        ",",
        "a,,b",
        "a b",
        "a,b\n",
        "ä",
        "x" * 65,
        ",".join(["a"] * (HOPS_MAX + 1)),
        "a," * 100_000,
        "a;b",
    ],
)
def test_headers_that_are_not_right_are_ignored(via: str) -> None:
    assert hops.parse([(VIA_HEADER, via), (ORIGIN_HEADER, via)]) == NOWHERE


@pytest.mark.parametrize(
    "stamp",
    ["", "5", "5-", "-5-a", "0-a", "05-a", "5-a\n", "5-ä", f"{TICKS_MAX + 1}-a", "9" * 20 + "-a"],
)
def test_a_stamp_that_is_not_right_is_ignored(stamp: str) -> None:
    assert hops.parse([(STAMP_HEADER, stamp)]) == NOWHERE


@pytest.mark.parametrize("mark", ["", "0", "true", "11"])
def test_only_one_word_marks_replication(mark: str) -> None:
    assert hops.parse([(REPLICATES_HEADER, mark)]) == NOWHERE


@given(IDS, st.text("azAZ09_-", min_size=1, max_size=64), st.integers(0, 10**19 - 1))
def test_what_a_node_announces_survives_its_headers(node_id: str, epoch: str, seq: int) -> None:
    said = NodeIdentity(node_id, LogPosition(epoch, seq))
    assert node_identity.parse(node_identity.headers(said)) == said


@pytest.mark.parametrize(
    "text", ["", "ä", "a b", "x" * 65, "e.", ".5", "e.5\n", "e.-5", f"e.{10**19}"]
)
def test_an_announcement_that_is_not_right_is_ignored(text: str) -> None:
    usable_id = hops.is_node_id(text)
    said = node_identity.parse([(NODE_HEADER, text), (LOG_HEADER, text), (LOG_HEADER, b"e.5")])
    assert said == (NodeIdentity(text) if usable_id else UNKNOWN)


def test_hops_are_read_from_among_other_metadata() -> None:
    metadata: list[tuple[str, str | bytes]] = [
        ("user-agent", "x"),
        (VIA_HEADER, "a, b"),
        ("some-bin", b"\xff"),
        (VIA_HEADER, "c"),
    ]
    assert hops.parse(metadata).via in {("a", "b"), ("c",)}


def test_a_node_finds_itself_in_what_has_passed_it() -> None:
    assert Hops(("a", "b"), "z").passed("a")
    assert Hops(("a",), "z").passed("z")
    assert not Hops(("a",), "z").passed("b")
    assert NOWHERE.after("me") == Hops(("me",), "me")
    assert Hops(("a",), "z").after("me") == Hops(("a", "me"), "z")
    marked = Hops(("a",), "z", replicates=True, stamp=Stamp(1, "a"))
    assert marked.after("me") == marked._replace(via=("a", "me"))


async def test_hops_hold_for_what_is_started_within() -> None:
    async def seen() -> Hops:
        return hops.current()

    there = Hops(("a",), "a")
    with hops.serving(there):
        inside = asyncio.ensure_future(seen())
    assert hops.current() == NOWHERE
    assert await inside == there


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=50))
def test_bytes_pass_at_the_rate_and_not_above(sizes: list[int]) -> None:
    rate, now_s = 100_000, 50.0
    bucket = TokenBucket(rate, 0, now_s)
    for size in sizes:
        now_s += bucket.spend(size, now_s)
    passed_s = now_s - 50.0
    assert passed_s * rate >= sum(sizes) - 1
    assert passed_s * rate <= sum(sizes) + 1


def test_a_pause_saves_up_only_a_little() -> None:
    bucket = TokenBucket(1000, 250, 0.0)
    assert bucket.spend(250, 3600.0) == 0.0
    assert bucket.spend(1000, 3600.0) == pytest.approx(1.0)
    assert bucket.spend(0, 3500.0) == pytest.approx(1.0)  # time that goes back gains nothing


def test_no_limit_is_no_wait() -> None:
    assert TokenBucket(0, 0, 0.0).spend(2**40, 0.0) == 0.0


@given(
    st.lists(st.integers(0, 100), max_size=60),
    st.integers(1, 150),
    st.integers(1, 10),
)
def test_groups_are_everything_once_in_order_and_fit(
    sizes: list[int], bytes_max: int, count_max: int
) -> None:
    groups = [sizes[cut] for cut in grouped(sizes, bytes_max, count_max)]
    assert [size for group in groups for size in group] == sizes
    for group in groups:
        assert 0 < len(group) <= count_max
        assert sum(group) <= bytes_max or len(group) == 1


async def test_turns_come_in_order_and_none_is_lost() -> None:
    slots = Slots("there", running_max=2, queue_max=100, wait_s=10)
    order: list[int] = []

    async def use(number: int) -> None:
        async with slots.one():
            order.append(number)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(use(number)) for number in range(30)]
    for task in tasks[5:30:5]:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == sorted(order)
    assert (slots.running, slots.queued) == (0, 0)
    assert repr(slots) == "<Slots 0 running, 0 queued>"


@given(st.lists(st.integers(0, 40), max_size=30))
def test_turns_survive_any_cancellation(steps: list[int]) -> None:
    async def run() -> None:
        slots = Slots("there", running_max=1, queue_max=3, wait_s=10)

        async def use() -> None:
            try:
                async with slots.one():
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            except RemoteFailed as error:
                assert error.kind is FailureKind.BUSY  # noqa: PT017

        tasks = []
        for step in steps:
            tasks.append(asyncio.ensure_future(use()))
            for _ in range(step % 4):
                await asyncio.sleep(0)
            tasks[step % len(tasks)].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (slots.running, slots.queued) == (0, 0)
        async with slots.one():
            pass

    asyncio.run(run())
