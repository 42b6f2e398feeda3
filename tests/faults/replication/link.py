"""One direction between two nodes: a TCP proxy at a fixed address, that a test can break.

The address stays the same over restarts of the node behind it, as a name in the DNS would.
"""

from __future__ import annotations

import socket
import threading
import time
from enum import StrEnum
from types import TracebackType

from federation.core.clock import SystemClock
from tests.faults.storage.proxy import reset, shut

_clock = SystemClock()
_PIECE_BYTES = 65536
_SLOW_PIECE_BYTES = 4096  # a slow link has little on its way: what is sent next is not far behind


class Mode(StrEnum):
    """What the link does with connections."""

    OPEN = "open"
    CUT = "cut"  # open ones are reset, new ones too
    SILENT = "silent"  # nothing gets through, and nobody is told
    DEAF = "deaf"  # nothing gets to the node behind; its answers still come


class Link:
    """Forwards connections to `target` (host:port), as the mode says. Open when made."""

    def __init__(self, target: str = "", *, bytes_s: int = 0) -> None:
        """Listen on a free port; bytes_s limits what goes each way in all, 0 does not."""
        self.target = target
        self.bytes_s = bytes_s
        self.carried = [0, 0]  # bytes to the node behind, and back
        self._mode = Mode.OPEN
        self._changed = threading.Condition()
        self._free_at_s = [0.0, 0.0]  # when each direction has carried what it took
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        if bytes_s:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_PIECE_BYTES)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __repr__(self) -> str:
        return f"<Link {self.address} to {self.target} {self._mode}>"

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shut(self._listener)
        self.set(Mode.CUT)

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode) -> None:
        """Change what happens, to open connections as well."""
        with self._changed:
            self._mode = mode
            self._changed.notify_all()
            ends: list[socket.socket] = []
            if mode is Mode.CUT:
                ends, self._open = self._open, []
        reset(ends)

    def flicker(self) -> None:
        """Reset every open connection; new ones go through."""
        mode = self._mode
        self.set(Mode.CUT)
        self.set(mode)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed: the end of the test
            with self._changed:
                refused = self._mode is Mode.CUT
            far = None if refused else self._dial()
            if far is None:
                reset([near])
                continue
            with self._changed:
                self._open = [end for end in self._open if end.fileno() >= 0]
                self._open += [near, far]
            for source, sink, back in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=(source, sink, back), daemon=True).start()

    def _dial(self) -> socket.socket | None:
        host, _, port = self.target.rpartition(":")
        try:
            return socket.create_connection((host, int(port)))
        except (OSError, ValueError):  # nobody is there just now
            return None

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        try:
            while piece := source.recv(_SLOW_PIECE_BYTES if self.bytes_s else _PIECE_BYTES):
                self._wait_for_passage(back)
                self._wait_for_room(len(piece), back)
                sink.sendall(piece)
                self.carried[back] += len(piece)
        except OSError:
            pass  # the other side went away, or we cut it
        finally:
            shut(source)
            shut(sink)

    def _wait_for_room(self, size_bytes: int, back: bool) -> None:
        """Wait for what all connections share: pieces go one after the other."""
        if not self.bytes_s:
            return
        with self._changed:
            begins_s = max(_clock.monotonic_s(), self._free_at_s[back])
            self._free_at_s[back] = ends_s = begins_s + size_bytes / self.bytes_s
        time.sleep(max(0.0, ends_s - _clock.monotonic_s()))

    def _wait_for_passage(self, back: bool) -> None:
        stops = {Mode.SILENT} if back else {Mode.SILENT, Mode.DEAF}
        with self._changed:
            while self._mode in stops:
                self._changed.wait()
            if self._mode is Mode.CUT:
                raise ConnectionResetError
