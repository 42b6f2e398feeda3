"""The client: one gRPC connection with raw bytes in and out, and uploads for the set-up of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import grpc

from benchmarks import payloads
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.google.bytestream import bytestream_pb2

CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"
ACTION_CACHE = "build.bazel.remote.execution.v2.ActionCache"
CAPABILITIES = "build.bazel.remote.execution.v2.Capabilities"
BYTE_STREAM = "google.bytestream.ByteStream"
FETCH = "build.bazel.remote.asset.v1.Fetch"
PUSH = "build.bazel.remote.asset.v1.Push"

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each Link
    ("SingleThreadedUnaryStream", 1),  # the reading thread polls itself: about a third cheaper
]


class WrongAnswerError(Exception):
    """A server answered a request of the set-up otherwise than the row needs."""


class Link:
    """One connection to one server."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)

    def close(self) -> None:
        """Close the connection and cancel what runs on it."""
        self._channel.close()

    def unary(self, service: str, method: str) -> Callable[[bytes], bytes]:
        """Return a call that takes and gives serialised messages."""
        return self._channel.unary_unary(f"/{service}/{method}", None, None)

    def future(self, service: str, method: str) -> Callable[[bytes], grpc.Future[bytes]]:
        """Return what begins such a call, so that many can run at once."""
        return self._channel.unary_unary(f"/{service}/{method}", None, None).future

    def stream(self, service: str, method: str) -> Callable[[bytes], Iterator[bytes]]:
        """Return a call that is answered with a stream of serialised messages."""
        call = self._channel.unary_stream(f"/{service}/{method}", None, None)
        # To the stubs' mind what it returns cannot be asked for its next.
        return cast("Callable[[bytes], Iterator[bytes]]", call)

    def sink(self, service: str, method: str) -> Callable[[Iterator[bytes]], bytes]:
        """Return a call that takes a stream of serialised messages."""
        return self._channel.stream_unary(f"/{service}/{method}", None, None)

    def write(self, messages: Iterable[bytes]) -> bytes:
        """Send one ByteStream.Write and return its serialised response."""
        return self.sink(BYTE_STREAM, "Write")(iter(messages))

    def upload(self, blobs: Sequence[bytes]) -> None:
        """Store blobs that together fit a batch or are split into several."""
        update = self.unary(CAS, "BatchUpdateBlobs")
        for batch in _batches(blobs):
            answer = re_pb2.BatchUpdateBlobsResponse.FromString(
                update(payloads.batch_update(batch))
            )
            expect(all(item.status.code == 0 for item in answer.responses), "blobs were refused")

    def upload_large(self, data: bytes) -> re_pb2.Digest:
        """Store one blob by ByteStream.Write and return its digest."""
        digest = payloads.digest_of(data)
        answer = self.write(payloads.write(digest, payloads.split(data)))
        committed = bytestream_pb2.WriteResponse.FromString(answer).committed_size
        expect(committed == len(data), f"committed {committed} of {len(data)} bytes")
        return digest


def expect(fulfilled: bool, otherwise: str) -> None:
    """Raise WrongAnswerError unless fulfilled."""
    if not fulfilled:
        raise WrongAnswerError(otherwise)


def _batches(blobs: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size_bytes = 0
    for data in blobs:
        if batch and (size_bytes + len(data) > payloads.BATCH_BYTES or len(batch) == 500):
            yield batch
            batch, size_bytes = [], 0
        batch.append(data)
        size_bytes += len(data)
    yield batch
