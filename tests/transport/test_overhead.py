"""What clients may still send for streams that are over: that much exactly, and no more."""

from __future__ import annotations

import pytest

from federation.transport.session import Http2Settings, Refused
from tests.transport.wire import DATA, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, Pair, frame

STREAMS, WINDOW, FRAME = 20, 2**16, 2**14
AT_ONCE = 2**16  # of overhead
ANSWER = [(b":status", b"200"), (b"grpc-status", b"16")]


class Refusing(Pair):
    """A session that answers calls at their headers, and a client that has not heard of it yet."""

    def __init__(self, window_bytes: int = WINDOW) -> None:
        super().__init__(Http2Settings(STREAMS, window_bytes))

    def begin(self) -> int:
        """Begin a call, and have it answered; the client does not read the answer."""
        stream = self.client.send_request(HEADERS)
        self.raw(self.client.data_to_send())
        self.session.begin(stream, ANSWER, end=True)
        return stream

    def answer(self) -> bytes:
        """Return what is sent, the resets behind the answers with it."""
        found = b"".join(iter(self.session.output, b""))
        self.seen += self.session.events()
        return found

    def hear(self, answer: bytes) -> None:
        """Let the client read it."""
        self.client.receive_data(answer)
        self.answered += self.client.events()


def pieces(stream: int, size_bytes: int, each_bytes: int) -> bytes:
    """Return frames of data."""
    whole, rest = divmod(size_bytes, each_bytes)
    sizes = [each_bytes] * whole + [rest] * (rest > 0)
    return b"".join(frame(DATA, 0, stream, bytes(size)) for size in sizes)


def taken_bytes(pair: Pair, data: bytes) -> int:
    """Send the same again and again; return how many bytes it takes to be a flood."""
    sent_bytes = 0
    while sent_bytes < 100 * STREAMS * WINDOW:
        sent_bytes += len(data)
        try:
            pair.raw(data)
        except Refused as error:
            if error.limit != "connection.frames":
                raise
            return sent_bytes
        while pair.session.output():
            pass
        pair.read(1)
    return sent_bytes


@pytest.mark.parametrize("each_bytes", [FRAME, 100, 18])
def test_all_open_streams_may_send_their_windows_after_they_were_answered(each_bytes: int) -> None:
    pair = Refusing()
    for _ in range(10):
        streams = [pair.begin() for _ in range(STREAMS)]
        answer = pair.answer()
        for stream in streams:
            pair.raw(pieces(stream, WINDOW, each_bytes))
            pair.raw(frame(RST_STREAM, 0, stream, bytes(4)))
        pair.hear(answer)


def test_a_frame_may_be_cut_off_by_each_answer() -> None:
    pair = Refusing(FRAME)  # nothing of the window is left behind it
    for _ in range(100):
        stream = pair.begin()
        data = frame(DATA, 0, stream, bytes(FRAME))
        pair.raw(data[:-1])
        answer = pair.answer()
        pair.raw(data[-1:] + frame(RST_STREAM, 0, stream, bytes(4)))
        pair.hear(answer)


def test_refused_calls_buy_no_room_for_control_frames() -> None:
    pair = Refusing()
    for _ in range(500):
        pair.begin()
        pair.hear(pair.answer())
    # A 64th of what the client is sent, here answers to its PINGs, comes on top.
    assert taken_bytes(pair, frame(PING, 0, 0, bytes(8)) * 10) <= AT_ONCE + AT_ONCE // 32


@pytest.mark.parametrize("refused", [1, STREAMS, 50 * STREAMS])
def test_refused_calls_buy_room_for_what_open_streams_may_send_and_no_more(refused: int) -> None:
    pair = Refusing()
    for _ in range(refused):
        last = pair.begin()
        pair.hear(pair.answer())
    most_bytes = min(refused, STREAMS) * WINDOW + FRAME + AT_ONCE
    assert abs(taken_bytes(pair, pieces(last, FRAME, FRAME)) - most_bytes) <= 2 * FRAME


@pytest.mark.parametrize(
    "data",
    [frame(DATA, 8, 1, b"\xff" + bytes(255)), frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") * 20],
    ids=["padding", "windows"],
)
def test_what_is_no_message_is_overhead_on_an_open_stream_too(data: bytes) -> None:
    pair = Pair()
    pair.call()
    assert taken_bytes(pair, data) <= 2 * AT_ONCE


def test_data_that_comes_in_parts_is_useful_once_it_is_whole() -> None:
    pair = Pair()
    stream = pair.call()
    data = frame(DATA, 0, stream, bytes(FRAME))
    for _ in range(100):
        for at in range(0, len(data), 1000):
            pair.raw(data[at : at + 1000])
        pair.read(stream)
        pair.exchange()
