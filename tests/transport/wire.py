"""A client's side of HTTP/2 for a Session, without sockets; and frames that no library sends."""

from __future__ import annotations

import ngh2
from ngh2 import events as http2

from federation.transport.session import Http2Settings, Session

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
RULES = Http2Settings(streams_max=100, window_bytes=2**16)
HEADERS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"node"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
DATA, HEADERS_FRAME, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE = 0, 1, 2, 3, 4, 5
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


class Pair:
    """A session and an honest client of it; now_s: the time that passes."""

    def __init__(self, rules: Http2Settings = RULES) -> None:
        self.now_s = 0.0
        self.session = Session(rules, self.now_s)
        self.client = ngh2.Connection(ngh2.Role.CLIENT)
        self.client.initiate_connection()
        self.seen: list[http2.Event] = []  # by the session
        self.answered: list[http2.Event] = []  # by the client
        self.exchange()

    def exchange(self) -> None:
        """Carry bytes both ways until there are none."""
        while True:
            there = self.client.data_to_send()
            if there:
                self.raw(there)
            back = self.session.output()
            self.seen += self.session.events()
            if back:
                self.client.receive_data(back)
                self.answered += self.client.events()
            if not there and not back:
                return

    def raw(self, data: bytes) -> None:
        """Give the session bytes from the client's side. Raises as Session.receive does."""
        self.seen += self.session.receive(data, self.now_s)

    def call(self, *data: bytes, end: bool = False) -> int:
        """Begin a call, with data; return its stream."""
        stream = self.client.send_request(HEADERS)
        for each in data:
            self.client.send_data(stream, each)
        if end:
            self.client.end_stream(stream)
        self.exchange()
        return stream

    def received(self, stream: int) -> int:
        """Return how much data the session has seen of a stream."""
        return sum(
            len(each.data)
            for each in self.seen
            if isinstance(each, http2.DataReceived) and each.stream_id == stream
        )

    def read(self, stream: int) -> None:
        """Take everything that came of a stream, as a handler does."""
        self.session.acknowledge(stream, self.received(stream))
        self.seen = [each for each in self.seen if not isinstance(each, http2.DataReceived)]

    def is_ended_for_a_flood(self) -> bool:
        """Whether libnghttp2 has ended the connection by its own rules; forgets what was seen."""
        while self.session.output():
            pass
        seen, self.seen = self.seen + self.session.events(), []
        ends = [each for each in seen if isinstance(each, http2.ConnectionClosed)]
        return any(
            error is not None and error.limit == "connection.frames"
            for error in map(self.session.refusal, ends)
        )
