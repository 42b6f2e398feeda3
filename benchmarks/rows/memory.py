"""What a server holds in memory while many slow clients read one large blob."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

import grpc

from benchmarks import payloads, procfs
from benchmarks.base import SERVERS, Row, RowSpec, Sample
from benchmarks.link import BYTE_STREAM, Link, expect
from benchmarks.payloads import MIB
from benchmarks.process import Server
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

_READER_RATE_BYTES = 1 * MIB  # a second
_LOOK_S = 0.1
_ALL_BEGIN_S = 60.0
_WINDOW = 10  # rounds of other rows, so that buffers have the time to fill


class SlowReaders(Row):
    """Many connections that each read the same blob at 1 MiB a second."""

    warms_up = False

    def __init__(self, server: Server, readers: int, size_bytes: int) -> None:
        super().__init__(server)
        self._readers = readers
        self._size_bytes = size_bytes

    def prepare(self) -> None:
        """See Row."""
        self.server.start()
        link = Link(self.server.address)
        piece = payloads.large_blob(8 * MIB)
        pieces = [piece] * (self._size_bytes // len(piece))
        hasher = hashlib.sha256()
        for data in pieces:
            hasher.update(data)
        digest = re_pb2.Digest(hash=hasher.hexdigest(), size_bytes=self._size_bytes)
        chunks = [chunk for data in pieces for chunk in payloads.split(data)]
        link.write(payloads.write(digest, chunks))
        link.close()
        self._request = payloads.read(digest)
        self.server.stop()
        self.server.start()

    def round(self, seconds: float) -> Sample:
        """See Row. The value is the highest resident set less the one before.

        A fresh process each time: what the upload or the last round left in the heap is not idle.
        """
        self.server.stop()
        self.server.start()
        before_bytes = procfs.resident_bytes(self.server.pid)
        cpu_s, client_cpu_s = self.server.cpu_s(), time.process_time()
        links = [Link(self.server.address) for _ in range(self._readers)]
        progress = [0] * self._readers
        threads = [
            threading.Thread(target=_read_slowly, args=(self._stream(link), progress, i))
            for i, link in enumerate(links)
        ]
        for thread in threads:
            thread.start()
        highest = max(self._watch(seconds * _WINDOW, progress))
        for link in links:
            link.close()
        for thread in threads:
            thread.join()
        expect(min(progress) > 0, f"{progress.count(0)} readers got nothing")
        client_cpu_s = time.process_time() - client_cpu_s
        return Sample([highest - before_bytes], self.server.cpu_s() - cpu_s, client_cpu_s)

    def _stream(self, link: Link) -> Iterator[bytes]:
        return link.stream(BYTE_STREAM, "Read")(self._request)

    def _watch(self, seconds: float, progress: list[int]) -> Iterator[int]:
        """Yield the resident set until everybody has been reading for these seconds."""
        until = time.perf_counter() + _ALL_BEGIN_S
        all_began = False
        while time.perf_counter() < until:
            if not all_began and min(progress) > 0:
                all_began, until = True, time.perf_counter() + seconds
            yield procfs.resident_bytes(self.server.pid)
            time.sleep(_LOOK_S)


def _read_slowly(messages: Iterator[bytes], progress: list[int], number: int) -> None:
    try:
        for message in messages:
            progress[number] += len(message)
            time.sleep(len(message) / _READER_RATE_BYTES)
    except (grpc.RpcError, ValueError):
        return  # the round is over: its connection was closed


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    fifty, many = (64 * MIB, 64 * MIB) if quick else (2048 * MIB, 10_240 * MIB)
    budget = "≤ 64 MB over idle"
    # The others leave some of two hundred without a byte for more than a minute: BuildGrid serves
    # as many at once as it has threads, a hundred here; casd left 14 of them, another time 163.
    return [_row(50, fifty), _row(200, many, budget, servers=("federation",))]


def _row(
    readers: int, size_bytes: int, budget: str = "", servers: Sequence[str] = SERVERS
) -> RowSpec:
    return RowSpec(
        f"memory-{readers}-readers",
        f"Memory over idle, {readers} slow readers of {size_bytes // MIB:,} MiB",
        partial(SlowReaders, readers=readers, size_bytes=size_bytes),
        memory=True,
        budget=budget,
        servers=servers,
    )
