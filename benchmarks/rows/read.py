"""ByteStream.Read of whole blobs: from the page cache (hot) and from the disk (cold)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat

from benchmarks import payloads
from benchmarks.base import WITH_WORKERS, CallRow, RowSpec
from benchmarks.crowd import CLIENTS, Crowd
from benchmarks.link import BYTE_STREAM, expect
from benchmarks.payloads import KIB, MIB
from benchmarks.process import Server
from federation._proto.google.bytestream import bytestream_pb2

_READ_BY_EACH = 5
_BLOBS = 16  # different ones, read in turn; a large one is alone


class Read(CallRow):
    """Reads blobs of one size in turn."""

    def __init__(self, server: Server, size_bytes: int, *, cold: bool) -> None:
        super().__init__(server)
        self._size_bytes = size_bytes
        self._cold = cold

    def set_up(self) -> None:
        """See CallRow."""
        self._read = self.link.stream(BYTE_STREAM, "Read")
        if self._size_bytes > MIB:
            blobs = [payloads.large_blob(self._size_bytes)]
        else:
            blobs = [payloads.blob(f"read/{i}", self._size_bytes) for i in range(_BLOBS)]
        self._requests = [payloads.read(self.link.upload_large(data)) for data in blobs]
        for data, request in zip(blobs, self._requests, strict=True):
            hasher = hashlib.sha256()
            for message in self._read(request):
                hasher.update(bytestream_pb2.ReadResponse.FromString(message).data)
            expect(hasher.digest() == hashlib.sha256(data).digest(), "other bytes were read")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            for request in self._requests:
                if self._cold:
                    self.server.drop_page_cache()
                yield partial(self._drain, request)

    def _drain(self, request: bytes) -> None:
        received_bytes = sum(len(message) for message in self._read(request))
        expect(received_bytes >= self._size_bytes, f"only {received_bytes} bytes came")


class ReadTogether(Read):
    """Eight clients that each read several blobs of 1 MiB."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, MIB, cold=False)

    def set_up(self) -> None:
        """See CallRow."""
        super().set_up()
        self._crowd = Crowd(self.server.address)
        self._work = [
            partial(_read_all, link.stream(BYTE_STREAM, "Read"), self._requests[:_READ_BY_EACH])
            for link in self._crowd.links
        ]

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return repeat(partial(self._crowd.run, self._work))

    def close(self) -> None:
        """See CallRow."""
        if hasattr(self, "_crowd"):
            self._crowd.close()
        super().close()


def _read_all(read: Callable[[bytes], Iterator[bytes]], requests: Sequence[bytes]) -> None:
    for request in requests:
        expect(sum(len(message) for message in read(request)) >= MIB, "not all came")


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    together = RowSpec(
        "read-1MiB-8-clients",
        f"Read 1MiB, hot, {CLIENTS} clients, {_READ_BY_EACH} each",
        ReadTogether,
        items=CLIENTS * _READ_BY_EACH * MIB,
        item="B",
        servers=WITH_WORKERS,
    )
    large = 16 * MIB if quick else 256 * MIB
    budget = "≥ 2x casd, ≥ 1.2x BuildGrid; aim ≤ 0.4 CPU-s per GB"
    return [
        together,
        _row("1KiB", KIB, cold=False),
        _row("64KiB", 64 * KIB, cold=False),
        _row("1MiB", MIB, cold=False),
        _row("256MiB", large, cold=False, budget=budget),
        _row("1MiB", MIB, cold=True),
        _row("256MiB", large, cold=True),
    ]


def _row(size: str, size_bytes: int, *, cold: bool, budget: str = "") -> RowSpec:
    state = "cold" if cold else "hot"
    return RowSpec(
        f"read-{size}-{state}",
        f"Read {size}, {state}",
        partial(Read, size_bytes=size_bytes, cold=cold),
        items=size_bytes,
        item="B",
        budget=budget,
    )
