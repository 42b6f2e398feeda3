"""Batches that fit the link, delays that grow, and who is to blame."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from federation.core.clock import ManualClock
from federation.core.digest import Digest
from federation.core.replication_log import Parked
from federation.remote.failures import FailureKind, RemoteFailed, failure
from federation.replication.backoff import Backoff, State
from federation.replication.batch_size import BATCHES_MAX, ITEMS_MAX, BatchSize
from federation.replication.counters import Rate
from federation.replication.existence_cache import ConfirmedBlobs
from federation.replication.outcomes import DENIED_IN_A_ROW, Fault, FaultTracker
from federation.replication.retry import is_due

PEER_BYTES = 4 * 2**20


def blobs(sizes: list[int]) -> list[Digest]:
    return [Digest(at.to_bytes(32, "big"), size) for at, size in enumerate(sizes)]


@given(
    st.lists(st.integers(0, 3_000_000), max_size=60), st.integers(1, 50), st.integers(1, 5_000_000)
)
def test_a_batch_keeps_to_all_limits_unless_it_is_a_single_blob(
    sizes: list[int], items_max: int, peer_bytes: int
) -> None:
    pace = BatchSize()
    pace.items_max = items_max
    batches = list(pace.cut(blobs(sizes), peer_bytes))
    assert [digest for batch in batches for digest in batch] == blobs(sizes)
    for batch in batches:
        assert len(batch) <= items_max
        assert len(batch) == 1 or sum(d.size_bytes for d in batch) <= min(
            peer_bytes, pace.bytes_max
        )


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, PEER_BYTES), st.floats(0, 1000))))
def test_limits_stay_in_range_whatever_is_measured(
    measured: list[tuple[int, int, float]],
) -> None:
    pace = BatchSize()
    for items, size_bytes, seconds in measured:
        pace.took(items, size_bytes, seconds, PEER_BYTES)
        assert 1 <= pace.at_once <= BATCHES_MAX
        assert 1 <= pace.items_max <= ITEMS_MAX
        assert 16 * 1024 <= pace.bytes_max <= PEER_BYTES


def settled(seconds: Callable[[int, int, BatchSize], float], blob_bytes: int) -> BatchSize:
    """The pace after sending many blobs of one size to a peer that takes so long over a batch."""
    pace = BatchSize()
    for _ in range(200):
        (batch, *_) = pace.cut(blobs([blob_bytes] * 2000), PEER_BYTES)
        size_bytes = len(batch) * blob_bytes
        pace.took(len(batch), size_bytes, seconds(len(batch), size_bytes, pace), PEER_BYTES)
    return pace


def test_r28_a_peer_that_takes_half_a_second_an_object_gets_many_small_batches() -> None:
    def took(items: int, _size: int, _pace: BatchSize) -> float:
        return 0.5 * items

    pace = settled(took, 1000)
    assert pace.items_max <= 24
    assert pace.at_once * 2 > 20  # objects a second


def test_on_a_busy_machine_batches_stay_large() -> None:
    def took(_items: int, size: int, pace: BatchSize) -> float:
        return 1.0 + size * pace.slots / 20_000_000

    pace = settled(took, 4096)
    assert pace.items_max == ITEMS_MAX
    assert pace.bytes_max > 2_000_000


def test_r18_over_a_slow_link_a_batch_takes_seconds_and_not_minutes() -> None:
    def took(_items: int, size: int, pace: BatchSize) -> float:
        return size * pace.slots / 32_000  # 256 kbit/s, shared by all under way

    pace = settled(took, 1000)
    batch_bytes = min(pace.bytes_max, pace.items_max * 1000)
    assert batch_bytes * pace.slots / 32_000 < 20


def test_a_fast_peer_gets_batches_of_its_own_limit() -> None:
    pace = settled(lambda *_: 0.01, 4096)
    assert pace.items_max == ITEMS_MAX
    assert pace.bytes_max == PEER_BYTES
    assert pace.at_once == BATCHES_MAX


def error(
    kind: FailureKind = FailureKind.UNAVAILABLE, after_s: float | None = None
) -> RemoteFailed:
    return failure("there", kind, "", after_s)


def test_r04_delays_grow_with_jitter_and_one_call_at_a_time_tries() -> None:
    backoff, now_s = Backoff(0.1, random.Random(1)), 100.0
    delays = []
    for _ in range(12):
        assert backoff.may_pass(now_s)
        assert backoff.failed(error(FailureKind.EXHAUSTED), now_s, backoff.generation, wrote=True)
        delays.append(backoff.wait_s(now_s))
        assert not backoff.may_pass(now_s)
        now_s += delays[-1]
        assert backoff.may_pass(now_s)
        assert not backoff.may_pass(now_s), "a second one went out while the first one tried"
        backoff.gave_up()
        backoff.until_s = now_s
    assert all(0.75 * 0.1 * 2**n <= d <= 1.25 * 0.1 * 2**n for n, d in enumerate(delays[:8]))
    assert all(45 <= d <= 75 for d in delays[10:])
    assert len({round(d, 6) for d in delays}) == len(delays)


def test_a_peer_that_is_away_is_tried_every_few_seconds() -> None:
    backoff = Backoff(0.1, random.Random(1))
    for _ in range(30):
        backoff.failed(error(), 0.0, backoff.generation, wrote=False)
    assert 3.75 <= backoff.wait_s(0.0) <= 6.25


def test_what_a_peer_asks_for_is_respected() -> None:
    backoff = Backoff(0.1, random.Random(1))
    backoff.failed(error(FailureKind.EXHAUSTED, 90.0), 0.0, 0, wrote=True)
    assert backoff.wait_s(0.0) == 90.0


def test_failures_of_calls_that_were_out_together_count_once() -> None:
    backoff = Backoff(0.1, random.Random(1))
    assert backoff.failed(error(), 0.0, 0, wrote=False)
    assert not backoff.failed(error(), 0.0, 0, wrote=False)
    assert backoff.failures == 1


def test_r10_an_answered_question_does_not_open_the_way_for_writes_that_wait() -> None:
    backoff = Backoff(0.1, random.Random(1))
    backoff.failed(error(FailureKind.EXHAUSTED), 0.0, 0, wrote=True)
    assert backoff.may_pass(10.0)
    assert not backoff.succeeded(wrote=False, writes_wait=True)
    assert backoff.state is State.PAUSED
    assert backoff.may_pass(10.0)
    assert backoff.succeeded(wrote=True)
    assert backoff.failures == 0


def test_an_answered_question_opens_it_where_no_write_waits_and_the_delay_is_kept_in_mind() -> None:
    backoff = Backoff(0.1, random.Random(1))
    for _ in range(5):
        backoff.failed(error(FailureKind.EXHAUSTED), 0.0, backoff.generation, wrote=True)
    assert backoff.may_pass(10.0)
    assert not backoff.succeeded(wrote=False), "it does not do as it should yet"
    assert backoff.state is State.OPEN
    backoff.failed(error(FailureKind.EXHAUSTED), 10.0, backoff.generation, wrote=True)
    assert backoff.wait_s(10.0) > 2


def test_r10_one_write_tries_where_a_question_opened_the_way() -> None:
    backoff = Backoff(0.1, random.Random(1))
    backoff.failed(error(FailureKind.EXHAUSTED), 0.0, 0, wrote=True)
    assert backoff.may_pass(10.0)
    backoff.succeeded(wrote=False)
    assert backoff.may_pass(10.0), "questions go on"
    assert backoff.may_pass(10.0, writes=True)
    assert not backoff.may_pass(10.0, writes=True)
    backoff.succeeded(wrote=False)
    assert not backoff.may_pass(10.0, writes=True), "a question that was under way opened it again"
    assert backoff.succeeded(wrote=True)
    assert backoff.may_pass(10.0, writes=True)
    assert backoff.may_pass(10.0, writes=True)


def test_r26_different_objects_denied_in_a_row_are_the_peers_doing() -> None:
    blame = FaultTracker()
    faults = [blame.failed(thing, FailureKind.DENIED) for thing in range(DENIED_IN_A_ROW)]
    assert faults == [Fault.UNCLEAR] * (DENIED_IN_A_ROW - 1) + [Fault.PEER]
    for _ in range(20):
        assert blame.failed(0, FailureKind.DENIED) is Fault.PEER, "nothing was taken in between"


def test_r09_one_object_denied_while_others_are_taken_is_its_own_fault() -> None:
    blame = FaultTracker()
    assert blame.failed("bad", FailureKind.DENIED) is Fault.UNCLEAR
    blame.taken("good")
    assert blame.failed("bad", FailureKind.DENIED) is Fault.OBJECT


def test_a_broken_connection_is_never_an_objects_fault() -> None:
    blame = FaultTracker()
    for kind in (FailureKind.UNAVAILABLE, FailureKind.TIMEOUT, FailureKind.STALLED):
        for _ in range(50):
            assert blame.failed("large", kind) is Fault.PEER
            blame.taken("small")


def test_an_object_at_which_a_peer_fails_again_and_again_is_set_aside_in_the_end() -> None:
    blame = FaultTracker()
    faults = []
    for _ in range(5):
        faults.append(blame.failed("bad", FailureKind.INTERNAL))
        blame.taken("good")
    assert faults == [Fault.PEER] * 4 + [Fault.OBJECT]


def test_a_confirmation_is_believed_for_a_while_and_their_number_is_bounded() -> None:
    clock = ManualClock()
    answers = "a"
    confirmed = ConfirmedBlobs(clock, lambda: answers)
    for thing in range(60_000):
        confirmed.add(thing)
    assert 0 not in confirmed
    assert 59_999 in confirmed
    clock.advance(61)
    assert 59_999 not in confirmed
    confirmed.add("thing")
    answers = "b"
    assert "thing" not in confirmed, "another node said so"


def test_a_rate_follows_what_happens_and_fades() -> None:
    clock = ManualClock()
    rate = Rate(clock)
    for _ in range(600):
        clock.advance(0.1)
        rate.add(5)
    assert 45 < rate.per_s() < 55
    clock.advance(100)
    assert rate.per_s() < 0.1


def test_r09_what_is_parked_is_tried_ever_more_rarely_and_when_asked() -> None:
    parked = Parked("p", 1, Digest(b"\0" * 32, 1), None, "", "", 1000.0)
    assert not is_due(parked, 1009)
    assert is_due(parked, 1010)
    assert not is_due(parked._replace(tries=2), 1059)
    assert is_due(parked._replace(tries=2), 1060)
    assert not is_due(parked._replace(tries=50), 4599)
    assert is_due(parked._replace(tries=50), 4600)
    assert is_due(parked._replace(retry=True), 1000)
    assert is_due(parked, 900), "the clock was set back"
