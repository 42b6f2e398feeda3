"""Uploads of one message each, over plain sockets: HTTP/2 frames made beforehand, no gRPC library.

A gRPC library in Python takes 0.5 ms of CPU for a call. Where many clients call at once on the
server's own cores, a row made with it tells more of the client than of the server. This one takes
some hundredths of a millisecond, and reads of an answer what decides: its message and its status.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from struct import Struct

from benchmarks.link import expect

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_NO_TABLE, _NO_PUSH = b"\x00\x01\x00\x00\x00\x00", b"\x00\x02\x00\x00\x00\x00"
_WIDEST = (2**31 - 2**16).to_bytes(4, "big")  # of a connection's window, which begins with 2^16 - 1
_HEAD = Struct("!HBBBI")  # size in two parts, type, flags, stream
_HEAD_BYTES = 9
_MESSAGE = Struct("!BI")  # whether it is compressed, size
_METHOD_POST, _SCHEME_HTTP, _AUTHORITY, _PATH, _CONTENT_TYPE = 0x83, 0x86, 1, 4, 31  # RFC 7541, A
_NEXT_IN_TABLE = 62
# "grpc-status: 0", its name plain or in Huffman's code. Without a table nothing else says it.
_OK = b"\x0bgrpc-status\x010", b"\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010"
_RECEIVE_BYTES = 2**16


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream) + payload


def _text(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text


class FrameLink:
    """One connection with one call at a time."""

    def __init__(self, address: str, path: str, answer: bytes) -> None:
        """path: "/service/method"; answer: the message that each call has to be answered with."""
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = _MESSAGE.pack(0, len(answer)) + answer
        # The first block has the server remember its four fields; the others name them.
        self._block = (
            bytes([_METHOD_POST, _SCHEME_HTTP, 0x40 | _AUTHORITY])
            + _text(address.encode())
            + bytes([0x40 | _PATH])
            + _text(path.encode())
            + bytes([0x40 | _CONTENT_TYPE])
            + _text(b"application/grpc")
            + b"\x40"
            + _text(b"te")
            + _text(b"trailers")
        )
        self._stream = -1
        self._came = b""
        self._has_answer = False
        self._socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, _NO_TABLE + _NO_PUSH)
            + _frame(_WINDOW_UPDATE, 0, 0, _WIDEST)
        )

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def send(self, message: bytes) -> None:
        """Begin a call; its message has to be small enough for the first window of a stream."""
        self._stream += 2
        self._has_answer = False
        body = _MESSAGE.pack(0, len(message)) + message
        self._socket.sendall(
            _frame(_HEADERS, _END_HEADERS, self._stream, self._block)
            + _frame(_DATA, _END_STREAM, self._stream, body)
        )
        if self._stream == 1:
            newest_last = reversed(range(_NEXT_IN_TABLE, _NEXT_IN_TABLE + 4))
            self._block = bytes([_METHOD_POST, _SCHEME_HTTP, *(0x80 | at for at in newest_last)])

    def receive(self) -> bool:
        """Take what came; return whether the call has ended, and well.

        Raises WrongAnswerError for any other end.
        """
        came = self._socket.recv(_RECEIVE_BYTES)
        expect(bool(came), "the server has closed the connection")
        data = self._came + came
        at, has_ended = 0, False
        while len(data) - at >= _HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            ends_at = at + _HEAD_BYTES + (high << 8 | low)
            if ends_at > len(data):
                break
            has_ended |= self._take(kind, flags, stream, data[at + _HEAD_BYTES : ends_at])
            at = ends_at
        self._came = data[at:]
        return has_ended

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        if kind == _DATA and stream == self._stream:
            expect(payload == self._answer, f"the answer is {payload!r}")
            self._has_answer = True
        elif kind == _HEADERS and stream == self._stream:
            if flags & _END_STREAM:
                expect(any(ok in payload for ok in _OK), f"the call ended with {payload!r}")
                expect(self._has_answer, "a call without an answer")
                return True
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._socket.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        else:
            expect(kind in (_SETTINGS, _PING, _WINDOW_UPDATE), f"frame {kind}: {payload!r}")
        return False


class FrameCrowd:
    """So many connections, each with one call at a time, by one thread."""

    def __init__(self, address: str, path: str, answer: bytes, clients: int) -> None:
        """See FrameLink."""
        self._links = [FrameLink(address, path, answer) for _ in range(clients)]

    def run(self, messages: Iterator[bytes], seconds: float) -> list[float]:
        """Send messages for so long; return the seconds of each call."""
        poll = select.epoll()
        by_descriptor = {link.fileno(): link for link in self._links}
        began_s: dict[int, float] = {}
        values: list[float] = []
        for descriptor, link in by_descriptor.items():
            poll.register(descriptor, select.EPOLLIN)
            began_s[descriptor] = time.perf_counter()
            link.send(next(messages))
        ends_s = time.perf_counter() + seconds
        while began_s:
            for descriptor, _ in poll.poll():
                link = by_descriptor[descriptor]
                if not link.receive():
                    continue
                now_s = time.perf_counter()
                values.append(now_s - began_s.pop(descriptor))
                if now_s < ends_s and (message := next(messages, None)) is not None:
                    began_s[descriptor] = now_s
                    link.send(message)
        poll.close()
        return values

    def close(self) -> None:
        """Close the connections."""
        for link in self._links:
            link.close()
