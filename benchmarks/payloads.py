"""Blobs and requests, made before anything is timed and the same for every server.

Requests are serialised here, so that a timed call costs the client little more than the wire.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.google.bytestream import bytestream_pb2

KIB = 2**10
MIB = 2**20
WRITE_CHUNK_BYTES = 2 * MIB  # as buildbox-casd sends
BATCH_BYTES = 3 * MIB  # well inside the 4 MiB that every server takes
_PIECE_BYTES = 8 * MIB  # the generator refuses much larger ones
_UUID = "7d9a9b5e-6f0e-4a52-9a55-0d1f6c1c6a11"  # one for all, as casd and bgd do it


def blob(label: str, size_bytes: int) -> bytes:
    """Return incompressible bytes that depend on the label alone."""
    return random.Random(label).randbytes(size_bytes)


@lru_cache(maxsize=1)
def large_blob(size_bytes: int) -> bytes:
    """Return a large blob; the last one asked for is remembered."""
    pieces = range(0, size_bytes, _PIECE_BYTES)
    return b"".join(blob(f"large/{at}", min(_PIECE_BYTES, size_bytes - at)) for at in pieces)


@cache
def floor_answer(request: bytes) -> tuple[int, bytes]:
    """Return how many messages a row of benchmarks.rows.floor asks for, and one of them."""
    count, size_bytes = map(int, request.split())
    return count, bytes(size_bytes)


def digest_of(data: bytes) -> re_pb2.Digest:
    """Return the SHA-256 digest of data."""
    return re_pb2.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def find_missing(digests: Sequence[re_pb2.Digest]) -> bytes:
    """Serialise a FindMissingBlobs request."""
    return re_pb2.FindMissingBlobsRequest(blob_digests=digests).SerializeToString()


def batch_update(blobs: Sequence[bytes]) -> bytes:
    """Serialise a BatchUpdateBlobs request."""
    item = re_pb2.BatchUpdateBlobsRequest.Request
    items = [item(digest=digest_of(data), data=data) for data in blobs]
    return re_pb2.BatchUpdateBlobsRequest(requests=items).SerializeToString()


def batch_read(digests: Sequence[re_pb2.Digest]) -> bytes:
    """Serialise a BatchReadBlobs request."""
    return re_pb2.BatchReadBlobsRequest(digests=digests).SerializeToString()


def read(digest: re_pb2.Digest) -> bytes:
    """Serialise a Read of a whole blob."""
    name = f"blobs/{digest.hash}/{digest.size_bytes}"
    return bytestream_pb2.ReadRequest(resource_name=name).SerializeToString()


def write(digest: re_pb2.Digest, chunks: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    """Serialise the messages of one Write, each with the resource name, as casd sends them."""
    name = f"uploads/{_UUID}/blobs/{digest.hash}/{digest.size_bytes}"
    offset = 0
    for data in chunks:
        end = offset + len(data)
        yield bytestream_pb2.WriteRequest(
            resource_name=name,
            write_offset=offset,
            finish_write=end == digest.size_bytes,
            data=bytes(data),
        ).SerializeToString()
        offset = end


def split(data: bytes) -> list[memoryview]:
    """Cut a blob into the pieces that one WriteRequest carries."""
    view = memoryview(data)
    return [view[at : at + WRITE_CHUNK_BYTES] for at in range(0, len(data), WRITE_CHUNK_BYTES)]
