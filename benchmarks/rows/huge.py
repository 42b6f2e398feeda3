"""Read and Write of a blob that is larger than what is sensible to hold in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.link import BYTE_STREAM, expect
from benchmarks.payloads import MIB
from benchmarks.process import Server
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

_PIECE_BYTES = 8 * MIB
_STAMP_BYTES = 16


class Huge(CallRow):
    """A blob of one piece many times, of which the first bytes differ."""

    def __init__(self, server: Server, size_bytes: int, *, write: bool) -> None:
        super().__init__(server)
        self._size_bytes = size_bytes
        self._write = write
        self._numbers = count()

    def set_up(self) -> None:
        """See CallRow."""
        self._piece = payloads.large_blob(_PIECE_BYTES)
        self._read = self.link.stream(BYTE_STREAM, "Read")
        if self._write:
            return
        digest, messages = self._next()
        self.link.write(messages)
        self._request = payloads.read(digest)
        self._drain()

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow. Messages are serialised while they are sent: a blob of them is too much."""
        while True:
            yield partial(self.link.write, self._next()[1]) if self._write else self._drain

    def _next(self) -> tuple[re_pb2.Digest, Iterator[bytes]]:
        stamp = next(self._numbers).to_bytes(_STAMP_BYTES, "big")
        first = stamp + self._piece[_STAMP_BYTES:]
        pieces = [first, *[self._piece] * (self._size_bytes // _PIECE_BYTES - 1)]
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
        digest = re_pb2.Digest(hash=hasher.hexdigest(), size_bytes=self._size_bytes)
        chunks = [chunk for piece in pieces for chunk in payloads.split(piece)]
        return digest, payloads.write(digest, chunks)

    def _drain(self) -> None:
        received_bytes = sum(len(message) for message in self._read(self._request))
        expect(received_bytes >= self._size_bytes, f"only {received_bytes} bytes came")


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    size_bytes = 64 * MIB if quick else 4096 * MIB
    return [
        RowSpec(
            f"{what}-4GiB",
            f"{what.title()} 4GiB{', new' if what == 'write' else ', hot'}",
            partial(Huge, size_bytes=size_bytes, write=what == "write"),
            items=size_bytes,
            item="B",
            stores=what == "write",
            budget="≥ 2x casd",
        )
        for what in ("read", "write")
    ]
