"""Which calls are woken when something was sent."""

from __future__ import annotations

from federation.transport.senders import Senders


class Call:
    def __init__(self) -> None:
        self.looked_at = 0

    def wake_sender(self) -> None:
        self.looked_at += 1


def of(count: int) -> tuple[Senders, list[Call]]:
    senders, calls = Senders(), [Call() for _ in range(count)]
    for call in calls:
        senders.add(call)
    return senders, calls


def looks(calls: list[Call]) -> list[int]:
    return [call.looked_at for call in calls]


def test_one_call_is_looked_at_after_each_frame() -> None:
    senders, calls = of(1)
    senders.sent(2**14, is_all=False)
    senders.sent(2**14, is_all=False)
    assert looks(calls) == [2]


def test_many_calls_are_looked_at_when_each_had_its_turn() -> None:
    senders, calls = of(3)
    senders.sent(2**15, is_all=False)
    assert looks(calls) == [0, 0, 0]
    senders.sent(2**14, is_all=False)
    assert looks(calls) == [1, 1, 1]


def test_all_are_looked_at_when_there_is_no_more_output() -> None:
    senders, calls = of(3)
    senders.sent(0, is_all=True)
    assert looks(calls) == [1, 1, 1]
    senders.discard(calls[0])
    senders.sent(0, is_all=True)
    assert looks(calls) == [1, 2, 2]
