"""ByteStream.Write of blobs that are new, and of one that is already there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import count

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.crowd import CLIENTS, Crowd
from benchmarks.link import CAS, Link, expect
from benchmarks.payloads import KIB, MIB
from benchmarks.process import Server
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

_STAMP_BYTES = 16
_WRITTEN_BY_EACH = 5


@lru_cache(maxsize=1)
def end_of_large(size_bytes: int) -> memoryview:
    """Return a large blob without its first bytes, of which each new one has its own."""
    return memoryview(payloads.large_blob(size_bytes))[_STAMP_BYTES:]


class Write(CallRow):
    """Writes blobs of one size; new ones differ in their first bytes."""

    def __init__(self, server: Server, size_bytes: int, *, new: bool) -> None:
        super().__init__(server)
        self._size_bytes = size_bytes
        self._new = new
        self._numbers = count()

    def set_up(self) -> None:
        """See CallRow."""
        digest, messages = self.next_write()
        self.link.write(messages)
        request = payloads.find_missing([digest])
        answer = self.link.unary(CAS, "FindMissingBlobs")(request)
        missing = re_pb2.FindMissingBlobsResponse.FromString(answer).missing_blob_digests
        expect(not missing, "a blob just written is missing")
        self._again = partial(self.link.write, messages)

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            if self._new:
                yield partial(self.link.write, self.next_write()[1])
            else:
                yield self._again

    def next_write(self) -> tuple[re_pb2.Digest, list[bytes]]:
        """Return a new blob's digest and the messages of its Write."""
        stamp = next(self._numbers).to_bytes(_STAMP_BYTES, "big")
        data = stamp + end_of_large(self._size_bytes)
        hash_hex = hashlib.sha256(data).hexdigest()
        digest = re_pb2.Digest(hash=hash_hex, size_bytes=self._size_bytes)
        return digest, list(payloads.write(digest, payloads.split(data)))


class WriteTogether(Write):
    """Eight clients that each write several new blobs."""

    def set_up(self) -> None:
        """See CallRow."""
        super().set_up()
        self._crowd = Crowd(self.server.address)

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            work = [partial(_write_all, link, self._next_writes()) for link in self._crowd.links]
            yield partial(self._crowd.run, work)

    def _next_writes(self) -> list[list[bytes]]:
        return [self.next_write()[1] for _ in range(_WRITTEN_BY_EACH)]

    def close(self) -> None:
        """See CallRow."""
        if hasattr(self, "_crowd"):
            self._crowd.close()
        super().close()


def _write_all(link: Link, writes: list[list[bytes]]) -> None:
    for messages in writes:
        link.write(messages)


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    large = 16 * MIB if quick else 256 * MIB
    sizes = [("1KiB", KIB), ("64KiB", 64 * KIB), ("1MiB", MIB), ("256MiB", large)]
    together = [_together(*size) for size in sizes[:2]]
    new = [_row(*size, new=True) for size in sizes]
    return [*new, *together, *(_row(*size, new=False) for size in sizes)]


def _together(size: str, size_bytes: int) -> RowSpec:
    return RowSpec(
        f"write-{size}-new-8-clients",
        f"Write {size}, new, {CLIENTS} clients, {_WRITTEN_BY_EACH} each",
        partial(WriteTogether, size_bytes=size_bytes, new=True),
        items=CLIENTS * _WRITTEN_BY_EACH * size_bytes,
        item="B",
        stores=True,
    )


def _row(size: str, size_bytes: int, *, new: bool) -> RowSpec:
    state = "new" if new else "present"
    large_new = new and size_bytes > MIB
    return RowSpec(
        f"write-{size}-{state}",
        f"Write {size}, {state}",
        partial(Write, size_bytes=size_bytes, new=new),
        items=size_bytes if new else 1,
        item="B" if new else "call",
        stores=new,
        budget="≥ 2x casd; aim 60 % of one core's SHA-256 rate" if large_new else "",
    )
