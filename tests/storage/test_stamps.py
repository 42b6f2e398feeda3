"""Which value of a name stays: the same everywhere, in whatever order they arrive."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidRequest
from federation.core.index import NO_STAMP, Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.storage.catalogue.hlc import (
    DRIFT_S,
    Held,
    Verdict,
    check,
    date,
    judge,
    next_ticks,
    ticks_at,
)
from tests.storage.conftest import opened, short

KEY = EntryKey(EntryKind.ACTION_RESULT, "", b"name")
NOW_S = 1_800_000_000.0


@given(st.integers(0, 2**62), st.floats(0, 4e9))
def test_ticks_never_step_back_and_follow_the_clock_where_it_is_ahead(
    last: int, wall_s: float
) -> None:
    ticks = next_ticks(last, wall_s, DRIFT_S)
    assert ticks >= ticks_at(wall_s)
    if last <= ticks_at(wall_s + DRIFT_S):
        assert ticks > last
        assert ticks == last + 1 or ticks == ticks_at(wall_s)


@given(st.integers(0, 2**62), st.floats(0, 4e9))
def test_r19_what_is_given_here_is_never_further_ahead_than_a_peer_takes(
    last: int, wall_s: float
) -> None:
    ticks = next_ticks(last, wall_s, DRIFT_S)
    assert ticks <= max(ticks_at(wall_s + DRIFT_S) + 1, last + 1 if last < ticks else 0)
    if last > ticks_at(wall_s + DRIFT_S):
        assert ticks <= ticks_at(wall_s + DRIFT_S / 2) + 1
        check(Stamp(ticks, "n"), wall_s - DRIFT_S / 2 + 1, DRIFT_S)  # a clock that is behind


def test_r19_a_stamp_is_refused_when_it_is_further_ahead_than_clocks_may_differ() -> None:
    check(Stamp(ticks_at(NOW_S + DRIFT_S), "n"), NOW_S, DRIFT_S)
    check(NO_STAMP, NOW_S, DRIFT_S)
    for ticks in (ticks_at(NOW_S + DRIFT_S + 1), 2**63 - 1):
        with pytest.raises(InvalidRequest, match=r"ahead of this node's clock.*clock-drift"):
            check(Stamp(ticks, "n"), NOW_S, DRIFT_S)


FAR = ticks_at(NOW_S + 400 * 86400)


def test_r19_a_push_that_knew_of_a_peer_s_value_is_dated_after_it() -> None:
    """Of whatever name: this node's clock is behind the peer's, within the drift."""
    theirs = Stamp(ticks_at(NOW_S + DRIFT_S / 2), "b")
    received = date(None, Entry(KEY, b"theirs", "", stamp=theirs), Source.PEER, 0, "a", NOW_S)
    assert received.stamp == theirs
    other = EntryKey(EntryKind.ACTION_RESULT, "", b"another name")
    pushed = date(None, Entry(other, b"ours", ""), Source.CLIENT, received.ticks, "a", NOW_S)
    assert pushed.stamp.ticks > theirs.ticks


@pytest.mark.parametrize("source", [Source.CLIENT, Source.PEER])
def test_what_an_upstream_gives_replaces_nothing_that_was_pushed_until_that_expires(
    source: Source,
) -> None:
    for value in (b"other", b"pushed"):
        pulled = Entry(KEY, value, "")
        held = Held(b"pushed", None, source, Stamp(ticks_at(NOW_S), "b"))
        assert judge(held, pulled, Source.UPSTREAM, NOW_S) is Verdict.LET_FALL
        held = held._replace(expires_at_s=NOW_S + 1)
        assert judge(held, pulled, Source.UPSTREAM, NOW_S) is Verdict.LET_FALL
        assert judge(held, pulled, Source.UPSTREAM, NOW_S + 1) is Verdict.TAKE


def test_r19_a_push_after_a_wrong_clock_is_dated_by_the_right_one() -> None:
    dated = date(None, Entry(KEY, b"new", ""), Source.CLIENT, FAR, "a", NOW_S)
    check(dated.stamp, NOW_S)
    assert dated.ticks == FAR  # remembered: values with such a date are looked for


def test_r19_a_clock_that_is_behind_for_a_moment_lets_pushes_win_over_what_is_held() -> None:
    """Peers hold it, too: were the push dated by that clock, they would let it fall."""
    held = Held(b"old", None, Source.PEER, Stamp(ticks_at(NOW_S), "b"))
    came = Entry(KEY, b"new", "")
    dated = date(held, came, Source.CLIENT, held.stamp.ticks, "a", NOW_S - 86400)
    assert dated.stamp > held.stamp


def test_r19_a_push_outdoes_what_is_held_though_the_clock_of_stamps_was_wrong() -> None:
    theirs = Stamp(ticks_at(NOW_S + DRIFT_S - 1), "b")
    held = Held(b"old", None, Source.PEER, theirs)
    dated = date(held, Entry(KEY, b"new", ""), Source.CLIENT, FAR, "a", NOW_S)
    assert dated.stamp > theirs


def test_r19_a_peer_s_value_of_this_moment_outdoes_what_a_wrong_clock_dated() -> None:
    """It is sent once, and would be gone before what is held is dated anew."""
    held = Held(b"old", None, Source.PEER, Stamp(FAR, "b"))
    for age_s, verdict in ((0.0, Verdict.TAKE), (DRIFT_S + 1, Verdict.LET_FALL)):
        came = Entry(KEY, b"new", "", stamp=Stamp(ticks_at(NOW_S - age_s), "c"))
        assert date(held, came, Source.PEER, FAR, "a", NOW_S).verdict is verdict


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


@given(_actions, st.tuples(*[st.floats(0, DRIFT_S)] * 3))
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
        far = Stamp(ticks_at(storage.core.clock.wall_s() + 600), "other")
        entries = [Entry(KEY, b"good", ""), Entry(KEY, b"far", "", stamp=far)]
        from_peer = Provenance(Source.PEER, via=("other",))
        with pytest.raises(InvalidRequest):
            await storage.put(entries, provenance=from_peer)
        assert await storage.get([KEY]) == [None]
        await storage.put(entries[:1])
        (entry,) = await storage.get([KEY])
        assert entry is not None
        assert entry.stamp < far
