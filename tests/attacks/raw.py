"""A client that does with HTTP/2 what no gRPC library would: half a message, a window of zero.

It reads what the node sends only while it is asked to, and acknowledges nothing on its own.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Sequence
from types import TracebackType

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from federation.core.clock import SystemClock

Headers = Sequence[tuple[str, str]]

_RECEIVE_BYTES = 2**16
_clock = SystemClock()


class RawConnection:
    """One connection to a gRPC listener; window_bytes: what it lets the node send on a stream."""

    def __init__(
        self,
        address: str,
        *,
        tls: bool = False,
        source: str = "127.0.0.1",
        window_bytes: int | None = None,
        timeout_s: float = 60,
    ) -> None:
        """Connect from an address of loopback (any 127.x.y.z will do)."""
        host, _, port = address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout_s, source_address=(source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = _secured(plain) if tls else plain
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        if window_bytes is not None:
            self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window_bytes})
        self.statuses: dict[int, str] = {}  # of the streams that have ended, as grpc-status
        self.received: dict[int, int] = {}  # bytes of DATA, of each stream
        self.ended = False  # whether the node has closed the connection
        self.flush()

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket without a word."""
        self._socket.close()

    def call(self, method: str, headers: Headers = ()) -> int:
        """Begin a call with its HEADERS and nothing else; returns the stream."""
        stream = self._h2.get_next_available_stream_id()
        sent = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{method}"),
            (":authority", "node"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *headers,
        ]
        self._h2.send_headers(stream, sent)
        return stream

    def unary(self, method: str, message: bytes, headers: Headers = ()) -> int:
        """Begin a call and send its whole message; returns the stream."""
        stream = self.call(method, headers)
        self.send(stream, framed(message), end=True)
        return stream

    def take_all(self) -> None:
        """Let the node send as much as HTTP/2 allows on the whole connection."""
        self._h2.increment_flow_control_window(2**30)

    def reset(self, stream: int) -> None:
        """Say that a call is of no interest any more."""
        self._h2.reset_stream(stream, 8)
        self.flush()

    def send(self, stream: int, data: bytes, *, end: bool = False, patience_s: float = 5.0) -> int:
        """Send as much of the data as the node takes; returns how much that was.

        Gives up when the node lets nothing more be sent for patience_s, or has ended the stream.
        """
        sent, deadline_s = 0, _clock.monotonic_s() + patience_s
        while sent < len(data) and not self.ended and stream not in self.statuses:
            window = min(
                self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size
            )
            if window <= 0:
                if _clock.monotonic_s() > deadline_s:
                    return sent
                self.flush()
                self.receive(0.05)
                continue
            piece = data[sent : sent + window]
            sent += len(piece)
            self._h2.send_data(stream, piece, end_stream=end and sent == len(data))
            deadline_s = _clock.monotonic_s() + patience_s
            self.flush()
        return sent

    def flush(self) -> None:
        """Put what was said on the wire."""
        try:
            self._socket.sendall(self._h2.data_to_send())
        except OSError:
            self.ended = True

    def receive(self, wait_s: float = 0.0) -> None:
        """Take what has come, after wait_s at most, and say what HTTP/2 wants to be said."""
        while not self.ended and self._readable(wait_s):
            wait_s = 0.0
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError:
                data = b""
            if not data:
                self.ended = True
                return
            for event in self._h2.receive_data(data):
                self._saw(event)
            self.flush()

    def wait_for(self, ended: int, timeout_s: float = 60) -> None:
        """Take what comes until so many calls have ended, or the connection has."""
        deadline_s = _clock.monotonic_s() + timeout_s
        while len(self.statuses) < ended and not self.ended:
            assert _clock.monotonic_s() < deadline_s, f"{len(self.statuses)} of {ended} ended"
            self.receive(0.05)

    def _readable(self, wait_s: float) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(select.select([self._socket], [], [], wait_s)[0])

    def _saw(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            for name, value in event.headers or ():
                if _text(name) == "grpc-status":
                    self.statuses[_stream(event)] = _text(value)
        elif isinstance(event, h2.events.DataReceived):
            at = _stream(event)
            self.received[at] = self.received.get(at, 0) + len(event.data or b"")
        elif isinstance(event, h2.events.StreamReset):
            self.statuses.setdefault(_stream(event), "reset")
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.ended = True


def framed(message: bytes) -> bytes:
    """Return the message as gRPC sends it: uncompressed, behind its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _secured(plain: socket.socket) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(plain, server_hostname="localhost")


def _stream(event: h2.events.Event) -> int:
    stream: int = getattr(event, "stream_id", None) or 0
    return stream


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
