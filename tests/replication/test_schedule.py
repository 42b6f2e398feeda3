"""When all is offered anew, and by what a peer shows that it may have lost things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.replication_log import PeerRecord, PeerState
from federation.replication.reconcile import pause_of_check
from federation.replication.schedule import (
    Position,
    Purpose,
    WalkPhase,
    due,
    is_urgent,
    read_position,
    what_changed,
)
from federation.wire.node_identity import LogPosition

FOLLOWING = PeerRecord("p", state=PeerState.FOLLOWING, reason="")
DAY_S = 86_400.0


@given(st.sampled_from(Purpose), st.sampled_from(WalkPhase), st.text(max_size=50))
def test_a_position_reads_back(purpose: Purpose, phase: WalkPhase, at: str) -> None:
    position = Position(purpose, phase, at)
    assert read_position(str(position)) == position


@pytest.mark.parametrize("text", ["", "resync", "resync blobs", "later blobs x", "check leaves 7"])
def test_what_is_no_position_means_to_begin(text: str) -> None:
    assert read_position(text) is None


def test_a_new_peer_gets_all_and_goes_on_where_it_was_interrupted() -> None:
    new = PeerRecord("p")
    assert due(new, DAY_S, 0) == Position(Purpose.RESYNC)
    kept = Position(Purpose.RESYNC, WalkPhase.ENTRIES, "17")
    assert due(new._replace(position=str(kept)), DAY_S, 0) == kept


def test_a_request_comes_before_a_check_and_goes_on_with_its_own_position_only() -> None:
    check = Position(Purpose.CHECK, WalkPhase.BLOBS, "17")
    asked = FOLLOWING._replace(wanted=1, position=str(check))
    assert is_urgent(asked)
    assert due(asked, DAY_S, DAY_S) == Position(Purpose.REQUEST)
    request = Position(Purpose.REQUEST, WalkPhase.BLOBS, "3")
    assert due(asked._replace(position=str(request)), DAY_S, 0) == request
    assert not is_urgent(asked._replace(served=1))


def test_a_resync_does_not_go_on_from_where_a_check_was() -> None:
    check = Position(Purpose.CHECK, WalkPhase.ENTRIES, "17")
    behind = PeerRecord("p", position=str(check))
    assert due(behind, DAY_S, 0) == Position(Purpose.RESYNC)


def test_a_check_begins_after_a_rest_and_never_where_it_is_turned_off() -> None:
    assert due(FOLLOWING, DAY_S, DAY_S * 0.09) is None
    assert due(FOLLOWING, DAY_S, DAY_S * 0.11) == Position(Purpose.CHECK)
    assert due(FOLLOWING, 0.0, DAY_S * 100) is None
    kept = Position(Purpose.CHECK, WalkPhase.ENTRIES, "4")
    assert due(FOLLOWING._replace(position=str(kept)), DAY_S, 0) == kept


@given(st.floats(1, 1e7), st.integers(0, 10**6))
def test_a_check_fits_into_its_interval(every_s: float, pages: int) -> None:
    pause_s = pause_of_check(every_s, pages)
    assert pause_s > 0
    assert pause_s * max(pages, 1) <= every_s


def test_r20_r21_what_a_peer_that_lost_things_shows() -> None:
    met = FOLLOWING._replace(node_id="n", log_seen="e.50")
    assert what_changed(met, "n", LogPosition("e", 50)) is None
    assert what_changed(met, "n", LogPosition("e", 51)) is None
    assert what_changed(met, "n", None) is None
    assert what_changed(FOLLOWING, "n", LogPosition("e", 1)) is None
    for node_id, log, reason in (
        ("m", LogPosition("e", 60), "another data directory"),
        ("n", LogPosition("e", 49), "earlier state"),
        ("n", LogPosition("f", 60), "begun anew"),
    ):
        changed = what_changed(met, node_id, log)
        assert changed is not None
        assert reason in changed
