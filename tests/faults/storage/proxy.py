"""A TCP proxy between a client and a node, that a test can cut in the middle of a transfer."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence

_PIECE_BYTES = 65536


class CuttingProxy:
    """Forwards connections; cuts all of them once this many bytes went to the node.

    Bytes beyond the limit are never forwarded, so what the node received is known to a byte.
    Connections made after the cut go through whole.
    """

    def __init__(self, target: str, cut_after_bytes: int | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._left = cut_after_bytes
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.was_cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every open connection, both ways."""
        with self._lock:
            ends, self._open = self._open, []
        reset(ends)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed: the end of the test
            far = socket.create_connection(self._target)
            with self._lock:
                self._open += [near, far]
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, to_node: bool) -> None:
        try:
            while piece := source.recv(_PIECE_BYTES):
                allowed = self._allow(len(piece)) if to_node else len(piece)
                sink.sendall(piece[:allowed])
                if allowed < len(piece):
                    self.cut()
                    self.was_cut.set()
        except OSError:
            pass  # the other side went away, or we cut it
        finally:
            shut(source)
            shut(sink)

    def _allow(self, wanted: int) -> int:
        with self._lock:
            if self._left is None:
                return wanted
            allowed = min(wanted, self._left)
            self._left = self._left - allowed if allowed == wanted else None
            return allowed


def reset(ends: Sequence[socket.socket]) -> None:
    """Close all with RST, as a crashed router does, and not with a polite FIN."""
    for end in ends:  # before the first is shut: then the threads that pump close the others
        with contextlib.suppress(OSError):  # closed already: its side went away by itself
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for end in ends:
        shut(end, socket.SHUT_RD)


def shut(end: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """Close an end; the shutdown wakes the thread that waits in recv on it."""
    with contextlib.suppress(OSError):  # not connected any more
        end.shutdown(how)
    end.close()
