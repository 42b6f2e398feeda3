"""What calls that read are charged for, from counters that are given."""

from __future__ import annotations

from federation.core.admission import Admission
from federation.services.arrivals import LEAST_BYTES, MessageArrivals
from federation.services.running_call import RunningCall
from tests.support.transport import FakeTransport

MIB = 2**20
MOST = 8 * MIB


def reading(incoming: Admission, peer: str, caller: str = "a") -> RunningCall:
    call = RunningCall(FakeTransport(peer), caller)
    call.pending_bytes = MOST
    incoming.adjust(caller, MOST)
    return call


def test_who_sends_nothing_is_charged_for_little() -> None:
    incoming = Admission(lambda: 64 * MIB)
    arrivals = MessageArrivals(incoming)
    calls = [reading(incoming, "one") for _ in range(4)]
    assert arrivals.charge(calls, {"one": 1000}, MOST) is None
    assert incoming.used_bytes == 4 * LEAST_BYTES
    assert arrivals.undercharges


def test_what_came_out_as_messages_is_not_counted_again() -> None:
    incoming = Admission(lambda: 64 * MIB)
    arrivals = MessageArrivals(incoming)
    call = reading(incoming, "one")
    arrivals.note_message("one", 100 * MIB)
    arrivals.charge([call], {"one": 101 * MIB}, MOST)
    assert incoming.used_bytes == LEAST_BYTES  # a fiftieth is what surrounds messages
    arrivals.charge([call], {"one": 106 * MIB}, MOST)
    assert call.pending_bytes == 4 * MIB


def test_no_call_is_charged_for_more_than_a_message() -> None:
    incoming = Admission(lambda: 64 * MIB)
    call = reading(incoming, "one")
    MessageArrivals(incoming).charge([call], {"one": 2**40}, MOST)
    assert incoming.used_bytes == MOST


def test_when_there_is_too_much_the_connection_with_most_has_to_go() -> None:
    incoming = Admission(lambda: 16 * MIB)
    arrivals = MessageArrivals(incoming)
    calls = [reading(incoming, "greedy") for _ in range(4)] + [reading(incoming, "small", "b")]
    assert arrivals.charge(calls, {"greedy": 30 * MIB, "small": MIB}, MOST) is calls[0]


def test_however_little_room_there_is_nobody_goes_for_a_message_or_two() -> None:
    incoming = Admission(lambda: 0)
    calls = [reading(incoming, "one") for _ in range(4)]
    assert MessageArrivals(incoming).charge(calls, {"one": 2 * MOST}, MOST) is None


def test_where_the_kernel_says_nothing_nobody_is_accused() -> None:
    incoming = Admission(lambda: 16 * MIB)
    calls = [reading(incoming, "unix:") for _ in range(4)]
    assert MessageArrivals(incoming).charge(calls, {}, MOST) is None


def test_a_message_of_known_size_is_charged_for_what_has_come_of_it() -> None:
    incoming = Admission(lambda: 64 * MIB)
    arrivals = MessageArrivals(incoming)
    slow, silent = (known(incoming, "one", came) for came in (MIB, 5))
    assert arrivals.charge_known([slow, silent], MOST) is None
    assert (slow.pending_bytes, silent.pending_bytes) == (MIB, LEAST_BYTES)
    assert incoming.used_bytes == MIB + LEAST_BYTES
    assert arrivals.undercharges


def test_a_connection_whose_messages_of_known_size_take_all_is_found() -> None:
    incoming = Admission(lambda: 16 * MIB)
    arrivals = MessageArrivals(incoming)
    calls = [known(incoming, "greedy", MOST - 1) for _ in range(5)]
    calls.append(known(incoming, "other", MOST - 1, caller="b"))
    worst = arrivals.charge_known(calls, MOST)
    assert worst is not None
    assert worst.peer == "greedy"
    assert arrivals.undercharges


def known(incoming: Admission, peer: str, came_bytes: int, caller: str = "a") -> RunningCall:
    call = reading(incoming, peer, caller)
    call.size_bytes = MOST
    transport = call.transport
    assert isinstance(transport, FakeTransport)
    transport.known_came_bytes = came_bytes
    return call
