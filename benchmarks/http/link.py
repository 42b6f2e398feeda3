"""The client: one HTTP/1.1 connection that is kept alive, with as little of its own as can be."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

from benchmarks.link import expect

_PIECE_BYTES = 2**20
_HEAD_MAX_BYTES = 2**14
_TIMEOUT_S = 300.0
_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)


class HttpLink:
    """One connection to one server."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host = address.encode()
        self._socket = socket.create_connection((host, int(port)), _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(_PIECE_BYTES))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def get(self, path: str) -> int:
        """Read the body of a path and drop it; return its size in bytes."""
        return sum(len(piece) for piece in self._get(path))

    def get_bytes(self, path: str) -> bytes:
        """Read the body of a path."""
        return b"".join(bytes(piece) for piece in self._get(path))

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Write a path."""
        self._send(b"PUT", path, b"Content-Length: %d\r\n" % len(data))
        self._socket.sendall(data)
        status, left_bytes, _ = self._answer()
        expect(200 <= status < 300, f"PUT {path} was answered with {status}")
        while left_bytes > 0:
            left_bytes -= self._receive()

    def _get(self, path: str) -> Iterator[memoryview]:
        """Yield the pieces of the body; each is overwritten by the next."""
        self._send(b"GET", path)
        status, left_bytes, begun = self._answer()
        expect(status == 200, f"GET {path} was answered with {status}")
        yield begun
        while left_bytes > 0:
            size_bytes = self._receive()
            left_bytes -= size_bytes
            yield self._buffer[:size_bytes]

    def _send(self, method: bytes, path: str, headers: bytes = b"") -> None:
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n"
        self._socket.sendall(head % (method, path.encode(), self._host, headers))

    def _answer(self) -> tuple[int, int, memoryview]:
        """Read the head of an answer.

        Return its status, how many bytes of its body are still to come, and those that came.
        """
        came_bytes = 0
        while (end := bytes(self._buffer[:came_bytes]).find(b"\r\n\r\n")) < 0:
            expect(came_bytes < _HEAD_MAX_BYTES, "the head of an answer does not end")
            came_bytes += self._receive(came_bytes)
        head = bytes(self._buffer[:end])
        if head[9:12] == b"204":  # has no body, and need not say so
            return 204, 0, self._buffer[:0]
        found = _LENGTH.search(head)
        expect(found is not None, "an answer without Content-Length")
        assert found is not None
        body = self._buffer[end + 4 : came_bytes]
        return int(head[9:12]), int(found[1]) - len(body), body

    def _receive(self, at: int = 0) -> int:
        size_bytes = self._socket.recv_into(self._buffer[at:])
        expect(size_bytes > 0, "the server closed the connection")
        return size_bytes
