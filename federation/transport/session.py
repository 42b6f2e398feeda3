"""HTTP/2 of one connection, over libnghttp2: bytes in, events out. No socket, no clock.

Windows: a stream may send what its window allows before its handler reads, and gets more as the
handler takes it. The connection's own window is as large as HTTP/2 allows, so that no stream can
block another; what all of them hold is bounded by their number and windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import ngh2
from ngh2 import ErrorCode, Setting
from ngh2.events import ConnectionClosed, DataReceived, Event, GoAwayReceived, StreamClosed

from federation.transport.headers import LIST_BYTES, Fields
from federation.transport.overhead import Overhead

_WINDOW_MAX: Final = 2**31 - 1
# Of a piece of output: whole frames, so that a slow reader has no more than this here. What is
# copied again for a few streams is then still in the processor's cache: a tenth less than with many
# frames, which take less for the answers of many streams.
_FEW_BYTES, _MANY_BYTES = 2 * (2**14 + 9), 8 * (2**14 + 9)

# A block of headers beyond these ends its connection; one beyond LIST_BYTES only its call.
_BLOCK_BYTES, _BLOCK_FIELDS, _CONTINUATIONS = 2**18, 2**12, 8
_ACKS_MAX = 1000  # answers to SETTINGS and PING that a client does not take
_RESETS = 2000, 200  # streams that a client resets: so many at once, and each second
_SUSPICIOUS = 2000, 100  # frames that no honest client sends


_GONE = ngh2.NGH2Error, ValueError  # a stream that is not there any more


class Refused(Exception):
    """The connection cannot go on. limit: which built-in bound the client exceeded, if any."""

    def __init__(self, text: str, limit: str | None = None) -> None:
        super().__init__(text)
        self.limit = limit


class Http2Settings(NamedTuple):
    """What a client is told when it connects."""

    streams_max: int
    window_bytes: int  # of each stream before its handler reads


class Session:
    """The server's side of one connection."""

    def __init__(self, settings: Http2Settings, now_s: float) -> None:
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._http2.initiate_connection(
            {
                Setting.MAX_CONCURRENT_STREAMS: settings.streams_max,
                Setting.INITIAL_WINDOW_SIZE: settings.window_bytes,
                Setting.MAX_HEADER_LIST_SIZE: LIST_BYTES,
            }
        )
        self._http2.set_local_window_size(_WINDOW_MAX)
        self._overhead = Overhead(settings.streams_max, now_s)
        self._is_explained = False  # why it ends: the client has said so, or terminate() was called
        self._finished: set[int] = set()  # streams whose end is said and perhaps not sent
        self._happened: list[Event] = []  # while output was made
        self.failed = False  # nothing can be said to the client any more

    def __repr__(self) -> str:
        return f"<Session {self._overhead!r}>"

    def receive(self, data: bytes | memoryview, now_s: float) -> list[Event]:
        """Take what came. Raises Refused."""
        left_bytes = self._window_left()
        try:
            self._http2.receive_data(data)
            events = self._http2.events()
        except ngh2.DenialOfServiceError as error:
            self.failed = True
            raise Refused(str(error), "connection.frames") from None
        except ngh2.NGH2Error as error:
            self.failed = True
            raise Refused(str(error)) from None
        self._forget_closed(events)
        data_bytes = left_bytes - self._window_left()
        if not 0 <= data_bytes <= len(data):  # announced anew, once in a GiB; or it ends
            data_bytes = len(data)
        self._count(len(data), data_bytes, events, now_s)
        return events

    def count_overhead(self, size_bytes: int, now_s: float) -> None:
        """Count bytes of a layer below, or take them back. Raises Refused for a flood."""
        self._count(size_bytes, 0, (), now_s)

    def _count(
        self, size_bytes: int, data_bytes: int, events: Sequence[Event], now_s: float
    ) -> None:
        if not self._overhead.admits(size_bytes, data_bytes, events, now_s):
            raise Refused("almost all that came is overhead", "connection.frames")

    def _window_left(self) -> int:
        """Return what is left of the connection's window: data takes it, of whatever stream."""
        try:
            return self._http2.local_window_size
        except ngh2.NGH2Error:
            return 0  # it ends already

    def has_output(self) -> bool:
        """Whether output() may return something, or has something to find out about a stream."""
        return bool(self._finished) or (not self.failed and self._http2.want_write)

    def output(self, *, of_many: bool = False) -> bytes:
        """Return the next piece of what is to be sent; empty: there is none now.

        of_many: it is of many streams.
        """
        most_bytes = _MANY_BYTES if of_many else _FEW_BYTES
        data = self._output(most_bytes)
        if not data and self._reset_finished():
            data = self._output(most_bytes)
        self._overhead.sent(len(data))
        return data

    def _output(self, most_bytes: int) -> bytes:
        if self.failed:
            return b""
        try:
            # Without a limit, bodies are copied once less.
            is_little = self._http2.queued_body_size() <= _MANY_BYTES
            data = self._http2.data_to_send(None if is_little else most_bytes)
            self._note(self._http2.events())
        except ngh2.NGH2Error:
            self.failed = True
            return b""
        return data

    def _reset_finished(self) -> bool:
        """Reset streams whose answer is sent: the client still sends, and nobody wants that."""
        if self.failed or not self._finished:
            return False
        found = [stream for stream in self._finished if self._is_sent(stream)]
        for stream in found:
            self._finished.discard(stream)
            self.reset(stream, ErrorCode.NO_ERROR)
        return bool(found)

    def _is_sent(self, stream: int) -> bool:
        """Whether nothing is left of a finished stream, now that there is no more output.

        Trailers wait behind the data, and both for the client's windows.
        """
        return (
            not self.queued_bytes(stream)
            and self._window_of(None) > 0
            and self._window_of(stream) > 0
        )

    def events(self) -> list[Event]:
        """Return what happened while output was made."""
        found, self._happened = self._happened, []
        return found

    def _note(self, events: list[Event]) -> None:
        if events:
            self._forget_closed(events)
            self._happened += events

    def _forget_closed(self, events: Sequence[Event]) -> None:
        for event in events:
            if type(event) is DataReceived:
                continue  # nearly all are
            if isinstance(event, StreamClosed):
                self._finished.discard(event.stream_id)
            elif isinstance(event, GoAwayReceived):
                self._is_explained = True

    # What is received

    def acknowledge(self, stream: int, size_bytes: int) -> None:
        """Let the client send so much more on a stream, whose handler has taken that."""
        if not self.failed:
            with suppress(*_GONE):
                self._http2.acknowledge_received_data(size_bytes, stream)

    def widen(self, stream: int, window_bytes: int) -> None:
        """Let the client send so much on a stream before its handler takes any."""
        size = min(window_bytes, _WINDOW_MAX)
        self._try(lambda: self._http2.set_local_window_size(size, stream_id=stream))

    # What is sent; False: the stream is not there any more

    def begin(self, stream: int, fields: Fields, *, end: bool = False) -> bool:
        """Send headers, and end the stream with them or not."""
        if end:
            self._finished.add(stream)
        if self.failed:
            return False
        try:
            self._http2.send_response(stream, fields, end_stream=end)
        except _GONE:
            return False
        return True

    def send(self, stream: int, *pieces: bytes) -> bool:
        """Send bytes behind the headers."""
        if self.failed:
            return False
        try:
            for each in pieces:
                self._http2.send_data(stream, each)
        except _GONE:
            return False
        return True

    def finish(self, stream: int, fields: Fields) -> bool:
        """End the stream with trailers behind what was sent."""
        self._finished.add(stream)
        if self.failed:
            return False
        try:
            self._http2.send_trailers(stream, fields)
        except _GONE:
            return False
        return True

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End the stream at once, without what was not sent yet."""

        def work() -> None:
            self._overhead.reset(self._http2.stream_local_window_size(stream))
            self._http2.reset_stream(stream, code)

        self._try(work)

    def queued_bytes(self, stream: int | None = None) -> int:
        """Return what a stream, or all of them, has to send that HTTP/2 has not taken yet."""
        return 0 if self.failed else self._http2.queued_body_size(stream)

    def has_room(self, stream: int, size_bytes: int, most_of_all_bytes: int) -> bool:
        """Whether the client takes so much more at once: on a stream that has sent nothing yet."""
        if self.failed:
            return False
        of_all_bytes = self._http2.queued_body_size() + size_bytes
        return of_all_bytes <= min(
            most_of_all_bytes, self._http2.remote_window_size
        ) and size_bytes <= self._window_of(stream)

    def fits(self, stream: int, most_bytes: int, most_of_all_bytes: int) -> bool:
        """Whether all that a stream has queued is little, and the client's windows have room."""
        queued_bytes, of_all_bytes = self.queued_bytes(stream), self.queued_bytes()
        if not queued_bytes:
            return True
        return queued_bytes <= min(most_bytes, self._window_of(stream)) and of_all_bytes <= min(
            most_of_all_bytes, self._window_of(None)
        )

    def _window_of(self, stream: int | None) -> int:
        """Return what the client takes now: on a stream, or on all."""
        try:
            if stream is None:
                return self._http2.remote_window_size
            return self._http2.stream_remote_window_size(stream)
        except ngh2.NGH2Error:
            return _WINDOW_MAX  # it is gone; there is nothing to wait for

    # The connection as a whole

    @property
    def is_window_spent(self) -> bool:
        """Whether the client may hardly send any more, and should connect anew.

        ngh2 forgets the beginning of a frame whose stream is closed before its end comes: it is
        never acknowledged, and what is left of the connection's window shrinks by 16 KiB at most.
        """
        try:
            return self._http2.local_window_size < _WINDOW_MAX // 4
        except ngh2.NGH2Error:
            return False  # it ends already

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._try(self._http2.ping)

    def announce_end(self) -> None:
        """Say that the connection will end; the client should begin no more calls."""
        self._try(self._http2.send_shutdown_notice)

    def end(self) -> None:
        """Take no more calls; the connection is over when those that run are."""
        self._try(self._http2.send_goaway)

    def refusal(self, event: ConnectionClosed) -> Refused | None:
        """Return why libnghttp2 itself has ended the connection; None: it has not, or in peace."""
        if self._is_explained or event.error_code == ErrorCode.NO_ERROR:
            return None
        is_flood = event.error_code in (ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.INTERNAL_ERROR)
        text = event.debug_data.decode("ascii", "replace") or f"error {event.error_code} of HTTP/2"
        return Refused(text, "connection.frames" if is_flood else None)

    def terminate(self, code: ErrorCode) -> None:
        """End the connection at once."""
        self._is_explained = True
        self._try(lambda: self._http2.terminate_connection(code))

    def _try(self, work: Callable[[], object]) -> bool:
        if self.failed:
            return False
        with suppress(*_GONE):
            work()
            return True
        return False


_CONFIGURATION = ngh2.Configuration(
    auto_window_update=False,
    max_outbound_ack=_ACKS_MAX,
    stream_reset_rate_limit=_RESETS,
    max_continuations=_CONTINUATIONS,
    glitch_rate_limit=_SUSPICIOUS,
    max_inbound_header_list_size=_BLOCK_BYTES,
    max_inbound_header_count=_BLOCK_FIELDS,
)
