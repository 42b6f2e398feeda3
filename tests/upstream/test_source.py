"""What is remembered of one upstream, and when it is left alone."""

from __future__ import annotations

import pytest

from federation.core import hops
from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.core.errors import BlobNotFound
from federation.core.index import EntryKey, EntryKind
from federation.remote.failures import FailureKind, RemoteFailed
from tests.upstream.fakes import upstream

BLOB = digest_of(b"blob")
OTHER = digest_of(b"other")
KEY = EntryKey(EntryKind.ASSET_BLOB, "", b"name")


def test_u07_it_rests_as_long_as_it_asked_to_and_no_longer_than_a_minute() -> None:
    clock = ManualClock()
    up, _ = upstream("a", clock=clock)
    up.note(RemoteFailed("a", FailureKind.EXHAUSTED, "later", retry_after_s=5.0))
    assert (up.is_up, up.state) == (False, "resting")
    assert not up.may_have(BLOB)
    assert not up.may_have_entry([KEY], [])
    clock.advance(5.0)
    assert up.may_have(BLOB)
    assert up.state == "untried"  # it has not answered yet
    assert up.breaker.failures == 0  # and is not silent
    up.note(RemoteFailed("a", FailureKind.EXHAUSTED, "much later", retry_after_s=3000.0))
    clock.advance(59.0)
    assert not up.is_up
    clock.advance(1.0)
    assert up.is_up


def test_u07_one_that_asks_for_patience_for_ever_is_as_good_as_silent() -> None:
    clock = ManualClock()
    up, _ = upstream("a", clock=clock)
    waited = []
    began_s = clock.monotonic_s()
    while up.breaker.allows():
        up.note(RemoteFailed("a", FailureKind.CROWDED, "later"))
        wait_s = up.wait_s(BLOB)
        waited.append(wait_s)
        clock.advance(wait_s if wait_s is not None else 2.0)
    assert waited[0] is not None
    assert waited[-1] is None
    assert 10 <= clock.monotonic_s() - began_s < 40
    assert len(waited) < 30


def test_u07_an_answer_to_anybody_renews_the_patience() -> None:
    clock = ManualClock()
    up, _ = upstream("a", clock=clock)
    for _ in range(60):
        up.note(RemoteFailed("a", FailureKind.EXHAUSTED, "later", retry_after_s=1.0))
        assert up.wait_s(BLOB) == pytest.approx(1.0)
        clock.advance(1.0)
        up.note(None)
    assert up.breaker.failures == 0
    up.note(RemoteFailed("a", FailureKind.EXHAUSTED, "much later", retry_after_s=50.0))
    assert up.wait_s(BLOB) is None  # nobody waits for as long


def test_one_is_not_slow_because_calls_wait_here_for_each_other() -> None:
    crowded = True
    up, _ = upstream("a", is_crowded=lambda: crowded)
    up.note_overtaken()
    assert up.breaker.failures == 0
    crowded = False
    up.note_overtaken()
    assert up.breaker.failures == 1


def test_one_that_has_not_answered_is_untried() -> None:
    up, _ = upstream("a")
    assert up.state == "untried"
    up.note(BlobNotFound(BLOB), [BLOB])
    assert up.state == "up"


def test_an_absence_told_to_a_request_from_another_node_is_not_remembered() -> None:
    up, _ = upstream("a", index=object())
    with hops.serving(hops.Hops(("other",), "other")):
        up.note(BlobNotFound(BLOB), [BLOB])
        up.note_absent([BLOB])
        up.note_entry([KEY], found=False)
    assert up.may_have(BLOB)
    assert up.may_have_entry([KEY], [])
    up.note_absent([BLOB])
    up.note_entry([KEY], found=False)
    assert not up.may_have(BLOB)
    assert not up.may_have_entry([KEY], [])


def test_what_it_said_before_it_went_down_is_not_believed_afterwards() -> None:
    up, _ = upstream("a", index=object(), clock=ManualClock())
    up.note_absent([BLOB])
    up.note_entry([KEY], found=False)
    for _ in range(up.breaker.failures_max):
        up.note(RemoteFailed("a", FailureKind.UNAVAILABLE, "refused"))
    assert up.state == "down"
    up.note(None, [OTHER])
    assert up.state == "up"
    assert up.may_have(BLOB)
    assert up.may_have_entry([KEY], [])
