"""What comes of one stream: how much of it may come before it is read, and what is counted."""

from __future__ import annotations

import pytest
from ngh2 import events as http2

from federation.transport.framing import TooLong, prefix_of
from federation.transport.incoming import ReceiveBounds, ReceivedStream
from tests.transport.wire import RULES, Pair

MIB = 2**20
WINDOW = RULES.window_bytes


class Site:
    """An incoming stream, with a client that sends."""

    def __init__(self, sent: bytes, *, end: bool = False, request_bytes: int = MIB) -> None:
        self.unread_bytes = 0
        self.pair = Pair()
        bounds = ReceiveBounds(request_bytes, MIB, WINDOW, 4 * WINDOW)
        self.incoming = ReceivedStream(self.pair.session, 1, bounds, self._count)
        self.stream = self.pair.call(sent, end=end)
        assert self.stream == 1
        self.arrive(is_read=False)

    def _count(self, by_bytes: int) -> None:
        self.unread_bytes += by_bytes

    def arrive(self, *, is_read: bool) -> bool:
        """Take what comes until nothing more does; return whether a reader would wake."""
        is_over = self.incoming.settle(is_read=is_read)
        came = True
        while came:
            self.pair.exchange()
            seen, self.pair.seen = self.pair.seen, []
            came = False
            for each in seen:
                if isinstance(each, http2.DataReceived):
                    came = True
                    self.incoming.add(each.data, end=each.end_stream)
            is_over |= self.incoming.settle(is_read=is_read)
        return is_over


def test_what_is_not_read_is_bounded_and_counted() -> None:
    site = Site(prefix_of(MIB) + bytes(MIB))
    assert site.incoming.held_bytes == site.unread_bytes == WINDOW


def test_a_message_that_is_read_comes_whole_and_is_counted_no_more() -> None:
    site = Site(prefix_of(MIB) + bytes(MIB))
    assert site.incoming.next_size() == MIB
    assert site.arrive(is_read=True)
    assert site.unread_bytes == 0
    packed = site.incoming.take()
    assert packed is not None
    assert packed.data == bytes(MIB)
    assert site.incoming.held_bytes == 0


def test_what_comes_behind_the_message_that_is_read_is_counted() -> None:
    site = Site(prefix_of(100) + bytes(100) + prefix_of(1000) + bytes(500))
    assert site.arrive(is_read=True)
    assert site.unread_bytes == 505
    assert site.incoming.take() is not None
    assert site.unread_bytes == 505
    assert not site.arrive(is_read=True)
    assert site.unread_bytes == 0  # all of it is of the message that is read now


def test_what_is_dropped_is_counted_no_more_and_lets_more_come() -> None:
    site = Site(bytes(MIB))
    for _ in range(40):
        site.incoming.drop()
        site.arrive(is_read=False)
    site.incoming.drop()
    assert (site.incoming.held_bytes, site.unread_bytes) == (0, 0)


def test_a_reader_wakes_when_nothing_more_will_come() -> None:
    site = Site(prefix_of(100) + bytes(50), end=True)
    assert site.arrive(is_read=True)
    assert site.incoming.is_half_closed
    assert site.incoming.take() is None


def test_a_message_that_is_too_long_wakes_its_reader_and_is_not_let_in() -> None:
    site = Site(prefix_of(MIB) + bytes(MIB), request_bytes=1000)
    assert site.incoming.next_size() is None
    assert site.arrive(is_read=True)
    assert site.incoming.held_bytes == WINDOW
    with pytest.raises(TooLong):
        site.incoming.take()


def test_a_handler_of_many_messages_lets_more_come_ahead() -> None:
    site = Site(prefix_of(10) + bytes(10) + prefix_of(MIB) + bytes(MIB))
    site.incoming.look_ahead()
    site.arrive(is_read=False)
    assert site.incoming.held_bytes == site.unread_bytes == 4 * WINDOW
