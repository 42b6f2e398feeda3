"""What is read: one blob after the other, batches, or one blob by many readers at once."""

from __future__ import annotations

import hashlib
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from benchmarks import payloads
from benchmarks.link import BYTE_STREAM, CAS, Link, expect
from benchmarks.payloads import KIB, MIB
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.google.bytestream import bytestream_pb2

_STAMP_BYTES = 16


class Timing(NamedTuple):
    """One call, or many at once: seconds until the first byte and until the last."""

    first_s: float
    whole_s: float


class Work(ABC):
    """Blobs that are new each time, and the calls that read them."""

    @property
    @abstractmethod
    def sizes(self) -> list[int]:
        """How many bytes each call brings that have to be kept."""

    @abstractmethod
    def renew(self, label: str, upstream: Link) -> None:
        """Put blobs that no proxy has seen on the upstream."""

    @abstractmethod
    def run(self, address: str) -> list[Timing]:
        """Read them all from here, on a connection that is not new."""

    @abstractmethod
    def check(self, address: str) -> None:
        """Read them all from here and prove that they are the right bytes."""


class Reads(Work):
    """ByteStream.Read of several blobs of one size, one after the other."""

    def __init__(self, size_bytes: int, blobs: int) -> None:
        self._size_bytes = size_bytes
        self._blobs = blobs
        self._digests: list[re_pb2.Digest] = []

    @property
    def sizes(self) -> list[int]:
        """See Work."""
        return [self._size_bytes] * self._blobs

    def renew(self, label: str, upstream: Link) -> None:
        """See Work."""
        names = [f"{label}/{number}" for number in range(self._blobs)]
        self._digests = [upstream.upload_large(_stamped(name, self._size_bytes)) for name in names]

    def run(self, address: str) -> list[Timing]:
        """See Work."""
        link = _connected(address)
        read = link.stream(BYTE_STREAM, "Read")
        timings = [
            _drain(read, payloads.read(digest), self._size_bytes) for digest in self._digests
        ]
        link.close()
        return timings

    def check(self, address: str) -> None:
        """See Work."""
        link = _connected(address)
        for digest in self._digests:
            hasher = hashlib.sha256()
            for message in link.stream(BYTE_STREAM, "Read")(payloads.read(digest)):
                hasher.update(bytestream_pb2.ReadResponse.FromString(message).data)
            expect(hasher.hexdigest() == digest.hash, "other bytes were read")
        link.close()


class BatchReads(Work):
    """BatchReadBlobs of 1 KiB blobs, one batch after the other; its answer is one message."""

    def __init__(self, blobs: int, batches: int) -> None:
        self._blobs = blobs
        self._batches = batches
        self._requests: list[tuple[bytes, set[bytes]]] = []

    @property
    def sizes(self) -> list[int]:
        """See Work."""
        return [self._blobs * KIB] * self._batches

    def renew(self, label: str, upstream: Link) -> None:
        """See Work."""
        self._requests = []
        for batch in range(self._batches):
            blobs = [payloads.blob(f"{label}/{batch}/{i}", KIB) for i in range(self._blobs)]
            upstream.upload(blobs)
            digests = [payloads.digest_of(data) for data in blobs]
            self._requests.append((payloads.batch_read(digests), set(blobs)))

    def run(self, address: str) -> list[Timing]:
        """See Work."""
        link = _connected(address)
        call = link.unary(CAS, "BatchReadBlobs")
        timings = []
        for request, blobs in self._requests:
            began = time.perf_counter()
            answer = call(request)
            took_s = time.perf_counter() - began
            expect(len(answer) > len(blobs) * KIB, f"only {len(answer)} bytes came")
            timings.append(Timing(took_s, took_s))
        link.close()
        return timings

    def check(self, address: str) -> None:
        """See Work."""
        link = _connected(address)
        for request, blobs in self._requests:
            answer = link.unary(CAS, "BatchReadBlobs")(request)
            items = re_pb2.BatchReadBlobsResponse.FromString(answer).responses
            expect({item.data for item in items} == blobs, "other blobs were read")
        link.close()


class Together(Reads):
    """Many readers of one blob at once, each on a connection of its own.

    The first byte is that of the reader in the middle, the last one that of the last reader.
    """

    def __init__(self, size_bytes: int, readers: int) -> None:
        super().__init__(size_bytes, blobs=1)
        self._readers = readers

    def run(self, address: str) -> list[Timing]:
        """See Work."""
        request = payloads.read(self._digests[0])
        links = [_connected(address) for _ in range(self._readers)]
        with ThreadPoolExecutor(self._readers) as threads:
            began = time.perf_counter()
            running = [
                threads.submit(
                    _drain, link.stream(BYTE_STREAM, "Read"), request, self._size_bytes, began
                )
                for link in links
            ]
            timings = [reading.result() for reading in running]
        for link in links:
            link.close()
        first_s = statistics.median(timing.first_s for timing in timings)
        return [Timing(first_s, max(timing.whole_s for timing in timings))]


def _drain(
    read: Callable[[bytes], Iterator[bytes]],
    request: bytes,
    size_bytes: int,
    began: float | None = None,
) -> Timing:
    began = time.perf_counter() if began is None else began
    messages = read(request)
    received_bytes = len(next(messages))
    first_s = time.perf_counter() - began
    received_bytes += sum(len(message) for message in messages)
    whole_s = time.perf_counter() - began
    expect(received_bytes >= size_bytes, f"only {received_bytes} bytes came")
    return Timing(first_s, whole_s)


def _connected(address: str) -> Link:
    link = Link(address)
    link.unary(CAS, "FindMissingBlobs")(b"")
    return link


def _stamped(label: str, size_bytes: int) -> bytes:
    """Return a blob that is new for each label, without making all of it anew."""
    if size_bytes <= MIB:
        return payloads.blob(label, size_bytes)
    stamp = hashlib.sha256(label.encode()).digest()[:_STAMP_BYTES]
    return stamp + memoryview(payloads.large_blob(size_bytes))[_STAMP_BYTES:]
