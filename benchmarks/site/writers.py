"""Clients that write small blobs one after the other: one of them, and many at once.

Their client is benchmarks.frames, for every server, as one with a gRPC library would take more CPU
for a call than the servers do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat

from benchmarks.base import CallRow, RowSpec, Sample
from benchmarks.frames import FrameCrowd
from benchmarks.link import BYTE_STREAM, expect
from benchmarks.payloads import KIB
from benchmarks.process import Server
from benchmarks.rows.floor import SERVICE, Bare
from benchmarks.rows.write import Write
from benchmarks.site.servers import NodeOfSite
from federation._proto.google.bytestream import bytestream_pb2

_SERVERS = (
    "federation",
    "federation-http2",
    "federation-shared",
    "federation-shared-http2",
    "federation-shared-http2-2",
)
_MANY = 16
_SYNC_MS = 3
_MOST_S = 16_000  # writes a second, which are made before a round; twice what any server does


class SmallWriters(CallRow):
    """So many clients; a value is the time of one write."""

    def __init__(self, server: Server, clients: int) -> None:
        super().__init__(server)
        self._clients = clients
        self._blobs = Write(server, KIB, new=True)

    def set_up(self) -> None:
        """See CallRow."""
        self._blobs.link = self.link
        self._blobs.set_up()
        stored = bytestream_pb2.WriteResponse(committed_size=KIB).SerializeToString()
        self._crowd = self._connect(f"/{BYTE_STREAM}/Write", stored)

    def _connect(self, path: str, answer: bytes) -> FrameCrowd:
        return FrameCrowd(self.server.address, path, answer, self._clients)

    def _messages(self) -> Iterator[bytes]:
        return (self._blobs.next_write()[1][0] for _ in repeat(None))

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow; round() does not use it."""
        return iter(())

    def round(self, seconds: float) -> Sample:
        """See Row."""
        messages = list(islice(self._messages(), self._clients + int(seconds * _MOST_S)))
        before_s, client_s = self.server.cpu_s(), time.process_time()
        values = self._crowd.run(iter(messages), seconds)
        client_s = time.process_time() - client_s
        return Sample(values, self.server.cpu_s() - before_s, client_s)

    def close(self) -> None:
        """See Row."""
        if hasattr(self, "_crowd"):
            self._crowd.close()
        super().close()


class SlowDiskWriters(SmallWriters):
    """The same where the database's disk takes some milliseconds for a sync."""

    def __init__(self, server: Server, clients: int) -> None:
        assert isinstance(server, NodeOfSite)
        server.sync_ms = _SYNC_MS
        super().__init__(server, clients)

    def set_up(self) -> None:
        """See CallRow: proves that the disk is slow."""
        super().set_up()
        took_s = min(self._crowd.run(islice(self._messages(), self._clients), seconds=1))
        expect(took_s * 1000 >= _SYNC_MS, f"a write took only {took_s * 1000:.1f} ms")


class DroppedWrites(SmallWriters):
    """The same messages, which a server of empty handlers drops: the bound of the others."""

    def __init__(self, server: Server, clients: int) -> None:
        super().__init__(Bare(server.home.parent, server.name), clients)

    def set_up(self) -> None:
        """See CallRow."""
        self._message = self._blobs.next_write()[1][0]
        self._crowd = self._connect(f"/{SERVICE}/Sink", b"%d" % len(self._message))

    def _messages(self) -> Iterator[bytes]:
        return repeat(self._message)


def rows() -> list[RowSpec]:
    """Return this module's rows."""
    return [
        *_rows("writers", "new", SmallWriters, _SERVERS),
        *_rows("slow-disk", f"new, syncs of {_SYNC_MS} ms", SlowDiskWriters, _SERVERS[2:]),
        *_rows("dropped", "dropped by an empty handler", DroppedWrites, _SERVERS[:2]),
    ]


def _rows(
    name: str, what: str, make: type[SmallWriters], servers: Sequence[str]
) -> Iterator[RowSpec]:
    for clients in (1, _MANY):
        yield RowSpec(
            f"site-{clients}-{name}",
            f"Write 1 KiB, {what}, {clients} writer{'' if clients == 1 else 's'}",
            partial(make, clients=clients),
            stores=make is not DroppedWrites,
            budget="" if clients == 1 else "p50 ≤ 3x that of one",
            servers=servers,
        )
