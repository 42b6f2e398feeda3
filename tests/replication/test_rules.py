"""The first rule that matches decides; blobs have no URI and no instance."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.config.peers import PeerConfig
from federation.core import hops
from federation.core.digest import Digest, digest_of
from federation.core.index import EntryKey, EntryKind
from federation.core.provenance import Source
from federation.core.replication_log import EntryHead, LogRow
from federation.core.window import Window
from federation.replication.outcomes import GONE, SUPERSEDED, SendOutcome
from federation.replication.rules import Rules, When, may_go_on, was_there
from federation.replication.selection import Choice
from tests.replication.here import asset_of, result_of

ARTIFACT = "urn:fdc:buildstream.build:2020:artifact:"


def rules(*given_rules: dict[str, Any], **keys: Any) -> Rules:
    return Rules(
        PeerConfig.model_validate({"name": "p", "url": "http://h:1", "rules": given_rules, **keys})
    )


def blob(size: int) -> Digest:
    return Digest(b"\0" * 32, size)


def asset(uri: str, instance: str = "") -> tuple[EntryKey, str]:
    return EntryKey(EntryKind.ASSET_BLOB, instance, b"n"), uri


def result(instance: str = "") -> tuple[EntryKey, str]:
    return EntryKey(EntryKind.ACTION_RESULT, instance, b"n"), "abc/3"


def test_without_rules_everything_is_sent_always() -> None:
    everything = rules()
    assert everything.of_blob(blob(0)) is When.ALWAYS
    assert everything.of_entry(*result("any")).when is When.ALWAYS
    assert everything.of_entry(*asset("urn:x")).when is When.ALWAYS
    assert not everything.has_window


def test_a_pattern_concerns_assets_alone() -> None:
    only = rules({"match": f"{ARTIFACT}*"})
    assert only.of_entry(*asset(f"{ARTIFACT}project/a/key")).when is When.ALWAYS
    assert only.of_entry(*asset("urn:else")).when is When.NEVER
    assert only.of_entry(*result()).when is When.NEVER
    assert only.of_blob(blob(1)) is When.NEVER


def test_the_first_rule_that_matches_decides() -> None:
    ordered = rules({"match": "urn:a*", "when": "never"}, {"when": "window"})
    assert ordered.of_entry(*asset("urn:abc")).when is When.NEVER
    assert ordered.of_entry(*asset("urn:b")).when is When.WINDOW
    assert ordered.of_blob(blob(1)) is When.WINDOW
    assert ordered.has_window


def test_instances_are_patterns_and_blobs_have_none() -> None:
    some = rules({"instances": ["main", "team-*"]})
    assert some.of_entry(*result("main")).when is When.ALWAYS
    assert some.of_entry(*asset("urn:x", "team-a")).when is When.ALWAYS
    assert some.of_entry(*result("other")).when is When.NEVER
    assert some.of_blob(blob(1)) is When.NEVER


def test_a_blob_outside_a_rules_sizes_is_the_next_rules_matter() -> None:
    sized = rules({"max-size": 1000}, {"min-size": 2000, "when": "window"})
    assert [sized.of_blob(blob(size)) for size in (0, 1000, 1001, 2000)] == [
        When.ALWAYS,
        When.ALWAYS,
        When.NEVER,
        When.WINDOW,
    ]
    bounds = sized.of_entry(*result()).bounds
    assert [bounds.admit(blob(size)) for size in (0, 1000, 1001)] == [True, True, False]


def test_metadata_alone_sends_no_blob_for_its_own_sake() -> None:
    light = rules({"closure": "metadata"})
    assert light.of_blob(blob(1)) is When.NEVER
    decision = light.of_entry(*result())
    assert decision.when is When.ALWAYS
    assert decision.bounds.metadata_only


@pytest.mark.parametrize(("send", "pulled"), [("received", False), ("all", True)])
def test_what_upstreams_gave_is_sent_when_the_peer_is_to_get_all(send: str, pulled: bool) -> None:
    chosen = rules(send=send)
    assert chosen.takes_from(Source.CLIENT)
    assert chosen.takes_from(Source.PEER)
    assert chosen.takes_from(Source.UPSTREAM) is pulled


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=20), st.text("ab", max_size=3))
def test_nothing_goes_back_to_where_it_was_or_beyond_what_can_be_written(
    via: list[str], node: str
) -> None:
    assert was_there(via, node) == (bool(node) and node in via)
    assert may_go_on(via) == (len(via) < hops.HOPS_MAX)


def test_what_passed_as_many_nodes_as_can_be_written_down_stays_here() -> None:
    assert may_go_on(["n"] * (hops.HOPS_MAX - 1))
    assert not may_go_on(["n"] * hops.HOPS_MAX)


def test_real_entries_have_the_keys_that_rules_read() -> None:
    here = digest_of(b"x")
    entry = asset_of("urn:x", here)
    assert rules({"match": "urn:?"}).of_entry(entry.key, entry.label).when is When.ALWAYS
    entry = result_of(here, here)
    assert rules({"match": "urn:?"}).of_entry(entry.key, entry.label).when is When.NEVER


def at(hours: int, minutes: int, seconds: int = 0) -> float:
    return datetime(2026, 3, 4, hours, minutes, seconds).timestamp()


def test_a_window_over_midnight() -> None:
    night = Window.parse("20:00-06:00")
    assert night.is_open(at(20, 0))
    assert night.is_open(at(23, 59, 59))
    assert night.is_open(at(0, 0))
    assert night.is_open(at(5, 59, 59))
    assert not night.is_open(at(6, 0))
    assert not night.is_open(at(19, 59, 59))
    assert night.opens_in_s(at(19, 0, 30)) == 3570
    assert night.opens_in_s(at(21, 0)) == 0


def test_a_window_within_a_day_and_one_of_a_whole_day() -> None:
    noon = Window.parse("12:00-13:30")
    assert not noon.is_open(at(11, 59))
    assert noon.is_open(at(13, 29))
    assert noon.opens_in_s(at(13, 30)) == 22.5 * 3600
    assert Window.parse("07:00-07:00").is_open(at(3, 3))


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 59))
def test_a_window_opens_when_it_says(begin: int, end: int, minute: int, second: int) -> None:
    window = Window(begin, end)
    now_s = at(minute // 60, minute % 60, second)
    wait_s = window.opens_in_s(now_s)
    assert 0 <= wait_s <= 24 * 3600
    assert window.is_open(now_s + wait_s)
    if wait_s > 1:
        assert not window.is_open(now_s + wait_s - 1)


def test_of_several_rows_of_one_name_the_newest_alone_is_sent() -> None:
    key, label = asset("urn:x")
    rows = [LogRow(seq, None, key, 1, 0.0, Source.CLIENT, (), "", seq) for seq in (3, 7)]
    now = EntryHead(7, key, label, 1, None, Source.CLIENT)
    ended: dict[int, SendOutcome] = {}
    choice = Choice(rules(), "node", When.ALWAYS)
    chosen = choice.entries(rows, [now, now], lambda row, end: ended.update({row.seq: end}))
    assert [row.seq for row in chosen] == [7]
    assert ended == {3: SUPERSEDED}
    assert choice.entries(rows, [None, None], lambda row, end: ended.update({row.seq: end})) == []
    assert ended == {3: GONE, 7: GONE}
