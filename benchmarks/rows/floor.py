"""What a transport itself costs: the answers of other rows, made beforehand, from empty handlers.

No server in Python over grpcio can be faster than these rows. They answer at once with bytes of the
same size, without looking at the request: no storage, no thread, no rights, no counting. Of uploads
they drop what comes. The column of `transport: http2` is the node's own transport with the
pipeline of every call, so rights and counting are in it. Beside them stands what the disk alone
takes to keep as much.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path

from benchmarks import disk
from benchmarks.base import CallRow, RowSpec
from benchmarks.link import expect
from benchmarks.payloads import MIB
from benchmarks.process import Server
from benchmarks.servers import free_port

SERVICE = "floor"
_PROGRAMS = {"federation": "bare_server", "federation-http2": "bare_http2"}


class Bare(Server):
    """A server of empty handlers, over the transport of the column that it is shown in."""

    durability = "unsynced"

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        super().__init__(home)

    def command(self) -> list[str]:
        """See Server."""
        self.address = f"127.0.0.1:{free_port()}"
        return [sys.executable, "-m", f"benchmarks.{_PROGRAMS[self.name]}", self.address]


class Floor(CallRow):
    """Asks for so many messages of so many bytes."""

    def __init__(self, server: Server, method: str, messages: int, size_bytes: int) -> None:
        super().__init__(Bare(server.home.parent, server.name))
        self._method = method
        self._messages = messages
        self._size_bytes = size_bytes
        self._request = b"%d %d" % (messages, size_bytes)

    def set_up(self) -> None:
        """See CallRow."""
        call = self.link.unary if self._method == "Unary" else self.link.stream
        self._call = call(SERVICE, self._method)
        self._ask()

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return repeat(self._ask)

    def _ask(self) -> None:
        answer = self._call(self._request)
        came = 1 if isinstance(answer, bytes) else sum(1 for _ in answer)
        expect(came == self._messages, f"{came} messages came")


class Sink(Floor):
    """Sends messages of so many bytes that are dropped."""

    def set_up(self) -> None:
        """See CallRow."""
        self._call_sink = self.link.sink(SERVICE, "Sink")
        self._message = bytes(self._size_bytes)
        self._ask()

    def _ask(self) -> None:
        came = self._call_sink(repeat(self._message, self._messages))
        expect(int(came) == self._messages * self._size_bytes, f"{came!r} bytes came")


class Disk(Floor):
    """Writes as many bytes to a new file, and waits until they are kept: no server has a part."""

    def set_up(self) -> None:
        """See CallRow."""
        self._message = bytes(self._size_bytes)
        self._ask()

    def _ask(self) -> None:
        disk.seconds_to_keep(self.server.home, repeat(self._message, self._messages))


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    large = 8 if quick else 128
    return [
        _row("small", "a small answer, from an empty handler", "Unary", 1, 100),
        _row("100KiB", "an answer of 105 KiB (BatchRead), likewise", "Unary", 1, 105 * 1024),
        _row("stream-1KiB", "a stream of 1 KiB (Read), likewise", "Stream", 1, 1030),
        _row("stream-256MiB", "a stream of 256 MiB (Read), likewise", "Stream", large, 2 * MIB),
        _row("sink-256MiB", "an upload of 256 MiB that is dropped", "", large, 2 * MIB, Sink),
        _row("disk-256MiB", "256 MiB to a file, synced", "", large, 2 * MIB, Disk),
    ]


def _row(
    name: str,
    title: str,
    method: str,
    messages: int,
    size_bytes: int,
    kind: type[Floor] = Floor,
) -> RowSpec:
    total_bytes = messages * size_bytes
    return RowSpec(
        f"floor-{name}",
        f"{'the disk' if kind is Disk else 'the transport'} alone: {title}",
        partial(kind, method=method, messages=messages, size_bytes=size_bytes),
        items=total_bytes if total_bytes >= MIB else 1,
        item="B" if total_bytes >= MIB else "call",
        servers=("federation",) if kind is Disk else tuple(_PROGRAMS),
    )
