"""What is remembered of one upstream, and when it is left alone."""

from __future__ import annotations

from federation.core import hops
from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.core.errors import BlobNotFound
from federation.core.store import EntryKey, EntryKind
from federation.remote import FailureKind, RemoteFailed
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
    assert not up.may_name([KEY], [])
    clock.advance(5.0)
    assert up.may_have(BLOB)
    assert up.state == "up"
    up.note(RemoteFailed("a", FailureKind.EXHAUSTED, "much later", retry_after_s=3000.0))
    clock.advance(59.0)
    assert not up.is_up
    clock.advance(1.0)
    assert up.is_up


def test_an_absence_told_to_a_request_from_another_node_is_not_remembered() -> None:
    up, _ = upstream("a", index=object())
    with hops.serving(hops.Hops(("other",), "other")):
        up.note(BlobNotFound(BLOB), [BLOB])
        up.note_absent([BLOB])
        up.note_entry(KEY, found=False)
    assert up.may_have(BLOB)
    assert up.may_name([KEY], [])
    up.note_absent([BLOB])
    up.note_entry(KEY, found=False)
    assert not up.may_have(BLOB)
    assert not up.may_name([KEY], [])


def test_what_it_said_before_it_went_down_is_not_believed_afterwards() -> None:
    up, _ = upstream("a", index=object(), clock=ManualClock())
    up.note_absent([BLOB])
    up.note_entry(KEY, found=False)
    for _ in range(up.breaker.failures_max):
        up.note(RemoteFailed("a", FailureKind.UNAVAILABLE, "refused"))
    assert up.state == "down"
    up.note(None, [OTHER])
    assert up.state == "up"
    assert up.may_have(BLOB)
    assert up.may_name([KEY], [])
