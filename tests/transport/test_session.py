"""HTTP/2 without sockets: windows follow what is read, early answers end streams."""

from __future__ import annotations

import pytest
from ngh2 import ErrorCode
from ngh2 import events as http2

from federation.transport.session import Refused
from tests.transport.wire import CONTINUATION, HEADERS, HEADERS_FRAME, PREFACE, RULES, Pair, frame

MIB = 2**20


def test_a_stream_may_send_its_window_before_it_is_read_and_no_more() -> None:
    pair = Pair()
    stream = pair.call(bytes(MIB))
    assert pair.received(stream) == RULES.window_bytes
    pair.session.acknowledge(stream, RULES.window_bytes)
    pair.exchange()
    assert pair.received(stream) == 2 * RULES.window_bytes


def test_streams_that_are_not_read_do_not_block_others() -> None:
    pair = Pair()
    for _ in range(RULES.streams_max - 1):
        pair.call(bytes(MIB))
    last = pair.call(b"x" * 1000)
    assert pair.received(last) == 1000


def test_a_widened_stream_may_send_a_whole_message() -> None:
    pair = Pair()
    stream = pair.call(bytes(MIB))
    pair.session.widen(stream, MIB)
    pair.exchange()
    assert pair.received(stream) == MIB


def test_an_early_answer_is_followed_by_a_reset_without_an_error() -> None:
    pair = Pair()
    stream = pair.call(b"x")
    pair.session.begin(stream, [(b":status", b"200"), (b"grpc-status", b"0")], end=True)
    pair.exchange()
    kinds = [type(each) for each in pair.answered if getattr(each, "stream_id", 0) == stream]
    assert kinds.index(http2.ResponseReceived) < kinds.index(http2.StreamReset)
    (reset,) = [each for each in pair.answered if isinstance(each, http2.StreamReset)]
    assert reset.error_code == ErrorCode.NO_ERROR


def test_the_reset_waits_for_what_the_client_does_not_take_yet() -> None:
    pair = Pair()
    stream = pair.call(b"x")
    pair.session.begin(stream, [(b":status", b"200")])
    pair.session.send(stream, bytes(MIB))
    pair.session.finish(stream, [(b"grpc-status", b"0")])
    for _ in range(3):  # the client has a window of 64 KiB, and takes nothing of it
        back = pair.session.output()
        assert len(back) <= 2 * 2**16
    assert pair.session.queued_bytes(stream) > 0
    pair.exchange()


def test_there_is_output_until_all_is_sent_and_a_stream_nobody_reads_is_reset() -> None:
    pair = Pair()
    stream = pair.call(b"x")
    assert not pair.session.has_output()
    pair.session.begin(stream, [(b":status", b"200")], end=True)
    assert pair.session.has_output()
    assert pair.session.output()
    assert pair.session.has_output()  # the reset, as the client has not ended the stream
    assert pair.session.output()
    assert not pair.session.has_output()
    assert pair.session.output() == b""


def test_there_is_no_output_of_what_the_client_does_not_take_until_it_does() -> None:
    pair = Pair()
    stream = pair.call(b"x")
    pair.session.begin(stream, [(b":status", b"200")])
    pair.session.send(stream, bytes(MIB))
    back = b""
    while pair.session.has_output():
        back += pair.session.output()
    assert pair.session.queued_bytes(stream) > 0
    pair.client.receive_data(back)
    pair.raw(pair.client.data_to_send())
    assert pair.session.has_output()


def test_data_for_a_stream_that_was_answered_is_no_flood() -> None:
    pair = Pair()
    for _ in range(50):
        stream = pair.client.send_request(HEADERS)
        pair.client.send_data(stream, bytes(RULES.window_bytes))
        there = pair.client.data_to_send()
        pair.raw(there[: -RULES.window_bytes])
        pair.session.begin(stream, [(b":status", b"200")], end=True)
        pair.session.output()
        pair.raw(there[-RULES.window_bytes :])
        pair.exchange()


def test_what_is_not_http2_is_refused() -> None:
    for data in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        PREFACE[:-1] + b"x",
    ):
        pair = Pair()
        fresh = type(pair.session)(RULES, 0.0)
        with pytest.raises(Refused) as caught:
            fresh.receive(data.ljust(24, b" "), 0.0)
        assert caught.value.limit is None
        assert fresh.output() == b""


def test_a_small_answer_need_not_be_waited_for_and_a_large_one_has_to() -> None:
    pair = Pair()
    small, large = pair.call(), pair.call()
    for stream in (small, large):
        pair.session.begin(stream, [(b":status", b"200")])
    pair.session.send(small, bytes(100))
    assert pair.session.fits(small, 2**14, 2**18)
    pair.session.send(large, bytes(2**17))
    assert not pair.session.fits(large, 2**14, 2**18)
    assert not pair.session.fits(small, 2**14, 2**18)  # the client's window is taken by the other


def test_a_drained_connection_takes_the_calls_of_those_who_did_not_know() -> None:
    pair = Pair()
    first = pair.call()
    pair.session.announce_end()
    second = pair.client.send_request(HEADERS)  # it crosses the announcement
    pair.exchange()
    pair.session.end()
    pair.exchange()
    begun = [each.stream_id for each in pair.seen if isinstance(each, http2.RequestReceived)]
    assert begun == [first, second]
    assert not pair.client.can_send_request


@pytest.mark.parametrize("end", ["by this side", "by the other side", "by a failure"])
def test_a_session_that_is_over_can_still_be_asked_and_told_anything(end: str) -> None:
    pair = Pair()
    stream = pair.call(b"x")
    pair.session.begin(stream, [(b":status", b"200")])
    pair.session.send(stream, bytes(MIB))
    if end == "by this side":
        pair.session.terminate(ErrorCode.ENHANCE_YOUR_CALM)
    elif end == "by the other side":
        pair.client.terminate_connection()
        pair.raw(pair.client.data_to_send())
    else:
        with pytest.raises(Refused):
            pair.raw(frame(HEADERS_FRAME, 0, 9, b"") + frame(CONTINUATION, 0, 9, b"") * 20)
    session = pair.session
    session.acknowledge(stream, 1)
    session.widen(stream, 2**20)
    assert not session.begin(7, [(b":status", b"200")], end=True)
    assert not session.send(stream, b"y") or end == "by the other side"
    session.finish(stream, [(b"grpc-status", b"0")])
    session.reset(stream, ErrorCode.CANCEL)
    session.ping()
    session.announce_end()
    session.end()
    session.terminate(ErrorCode.NO_ERROR)
    assert not session.is_window_spent
    assert session.fits(stream, 2**30, 2**30) in {True, False}
    while session.output():
        pass
    session.events()
