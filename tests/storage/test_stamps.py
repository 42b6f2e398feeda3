"""Which value of a name stays: the same everywhere, in whatever order they arrive."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidRequest
from federation.core.store import (
    NO_STAMP,
    Entry,
    EntryKey,
    EntryKind,
    Provenance,
    Source,
    Stamp,
)
from federation.storage.catalogue.hlc import Held, Verdict, check, date, judge, next_ticks, ticks_at
from tests.storage.conftest import opened, short

KEY = EntryKey(EntryKind.ACTION_RESULT, "", b"name")
NOW_S = 1_800_000_000.0


@given(st.integers(0, 2**62), st.floats(0, 4e9))
def test_ticks_never_step_back_and_follow_the_clock_where_it_is_ahead(
    last: int, wall_s: float
) -> None:
    ticks = next_ticks(last, wall_s)
    assert ticks > last
    assert ticks >= ticks_at(wall_s)
    assert ticks == last + 1 or ticks == ticks_at(wall_s)


def test_r19_a_stamp_is_refused_when_a_year_of_pushes_could_not_outdo_it() -> None:
    day_s = 86400
    check(Stamp(ticks_at(NOW_S + 365 * day_s), "n"), NOW_S)
    check(NO_STAMP, NOW_S)
    for ticks in (ticks_at(NOW_S + 367 * day_s), 2**63 - 1):
        with pytest.raises(InvalidRequest, match="ahead of this node's clock"):
            check(Stamp(ticks, "n"), NOW_S)


def test_r15_two_nodes_that_pulled_different_values_end_with_the_same_one() -> None:
    held = {node: Held(node.encode(), None, Source.UPSTREAM, NO_STAMP) for node in ("a", "b")}
    sent = {node: Entry(KEY, node.encode(), "", stamp=Stamp(1, node)) for node in held}
    at_a = date(held["a"], sent["b"], Source.PEER, 0, "a", NOW_S)
    at_b = date(held["b"], sent["a"], Source.PEER, 0, "b", NOW_S)
    assert (at_a.verdict, at_a.stamp) == (Verdict.TAKE, Stamp(1, "b"))
    assert (at_b.verdict, at_b.stamp) == (Verdict.LET_FALL, NO_STAMP)
    pushed = Entry(KEY, b"c", "", stamp=Stamp(5, "a"))
    assert date(held["b"], pushed, Source.PEER, 0, "b", NOW_S).verdict is Verdict.TAKE


@dataclass
class Replica:
    """What one node holds under a name, by judge alone."""

    node: str
    wall_s: float
    held: Held | None = None
    ticks: int = 0
    log: list[Entry] = field(default_factory=list)

    def push(self, value: bytes) -> None:
        entry = Entry(KEY, value, "")
        if judge(self.held, entry, Source.CLIENT, self.wall_s) is Verdict.TAKE:
            self.ticks = next_ticks(self.ticks, self.wall_s)
            self._hold(entry._replace(stamp=Stamp(self.ticks, self.node)), Source.CLIENT)

    def pull(self, value: bytes) -> None:
        entry = Entry(KEY, value, "")
        if judge(self.held, entry, Source.UPSTREAM, self.wall_s) is Verdict.TAKE:
            self._hold(entry, Source.UPSTREAM)

    def receive(self, entry: Entry) -> None:
        self.ticks = max(self.ticks, entry.stamp.ticks)
        if judge(self.held, entry, Source.PEER, self.wall_s) is Verdict.TAKE:
            self._hold(entry, Source.PEER)

    def _hold(self, entry: Entry, source: Source) -> None:
        self.held = Held(entry.value, None, source, entry.stamp)
        if source is not Source.UPSTREAM:
            self.log.append(entry)


_actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 2), st.sampled_from([b"x", b"y", b"z"])),
        st.tuples(st.just("pull"), st.integers(0, 2), st.sampled_from([b"x", b"y"])),
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(0, 2)),
    ),
    max_size=30,
)


@given(_actions, st.tuples(*[st.floats(0, 1e6)] * 3))
def test_r15_nodes_that_heard_everything_hold_the_same(
    actions: list[tuple[str, int, object]], skews: tuple[float, ...]
) -> None:
    """A chain: each tells its neighbours alone what its log says, and passes on what it took."""
    nodes = [Replica(f"n{n}", NOW_S + skew) for n, skew in enumerate(skews)]
    links = [(0, 1), (1, 0), (1, 2), (2, 1)]
    read = dict.fromkeys(links, 0)

    def send(link: tuple[int, int]) -> bool:
        here, there = nodes[link[0]], nodes[link[1]]
        rows = here.log[read[link] :]
        read[link] = len(here.log)
        if rows and here.held is not None and here.held.source is not Source.UPSTREAM:
            there.receive(Entry(KEY, here.held.value, "", stamp=here.held.stamp))
        return bool(rows)

    for what, at, argument in actions:
        if what == "push":
            nodes[at].push(argument)  # type: ignore[arg-type]
        elif what == "pull":
            nodes[at].pull(argument)  # type: ignore[arg-type]
        else:
            send(links[(at + int(argument)) % 4])  # type: ignore[call-overload]
    rounds = 0
    while any(send(link) for link in links):
        rounds += 1
        assert rounds < 50, "they go on telling each other"
    told = {(n.held.value, n.held.stamp) for n in nodes if n.held and n.held.stamp != NO_STAMP}
    assert len(told) <= 1
    if told:
        assert all(node.held and node.held.stamp != NO_STAMP for node in nodes)


def test_the_order_of_arrival_does_not_matter() -> None:
    sent = [
        Entry(KEY, value, "", stamp=Stamp(ticks, node))
        for value, ticks, node in [(b"x", 5, "a"), (b"y", 7, "b"), (b"x", 10, "b"), (b"z", 10, "b")]
    ]
    ends = set()
    for order in itertools.permutations(sent):
        replica = Replica("here", NOW_S)
        for entry in order:
            replica.receive(entry)
        ends.add(replica.held)
    assert len(ends) == 1


async def test_r19_a_peer_s_stamp_from_the_far_future_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        far = Stamp(ticks_at(storage.core.clock.wall_s() + 400 * 86400), "other")
        entries = [Entry(KEY, b"good", ""), Entry(KEY, b"far", "", stamp=far)]
        from_peer = Provenance(Source.PEER, via=("other",))
        with pytest.raises(InvalidRequest):
            await storage.put(entries, provenance=from_peer)
        assert await storage.get([KEY]) == [None]
        await storage.put(entries[:1])
        (entry,) = await storage.get([KEY])
        assert entry is not None
        assert entry.stamp < far
