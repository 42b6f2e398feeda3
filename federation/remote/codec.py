"""The protocol's messages as a client writes and reads them. Nothing that came is believed here.

Messages of many small fields go through the compiled runtime, those that carry parts of large blobs
are taken apart by hand, which copies each part once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.google.bytestream import bytestream_pb2
from federation.digest import Digest, DigestFunction
from federation.errors import InvalidRequest
from federation.remote.failures import FailureKind, failure
from federation.wire.digests import digest_field, encode_digest, to_digest
from federation.wire.fields import (
    LENGTH,
    fields,
    length_field,
    length_prefix,
    varint_field,
)

_M = TypeVar("_M", bound=Message)


class BlobSent(NamedTuple):
    """A blob of a batch as it travels."""

    digest: Digest
    data: bytes
    compressed: bool = False


class Item(NamedTuple):
    """One answer of a batch: its digest as sent, its status, and the blob of a read."""

    digest: reapi.Digest
    code: int
    message: str
    data: bytes = b""
    compressor: int = 0


def parse(remote: str, kind: type[_M], data: bytes) -> _M:
    """Read a response. Raises RemoteFailed (malformed)."""
    try:
        return kind.FromString(data)
    except DecodeError:
        detail = f"its {kind.DESCRIPTOR.name} is not a valid message"
        raise failure(remote, FailureKind.MALFORMED, detail) from None


def digest_in(remote: str, message: reapi.Digest, function: DigestFunction) -> Digest:
    """Read a digest of a response. Raises RemoteFailed (malformed)."""
    try:
        return to_digest(message, function)
    except InvalidRequest as error:
        raise failure(remote, FailureKind.MALFORMED, str(error)) from None


def wire_digest(digest: Digest) -> reapi.Digest:
    """Return the message."""
    return reapi.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


def function_number(function: DigestFunction) -> int:
    """Return what a digest_function field says; nothing for SHA-256, as before the field came."""
    return 0 if function is DigestFunction.SHA256 else int(function)


# -- ContentAddressableStorage -------------------------------------------------------------


def find_missing(instance: str, digests: Sequence[Digest], function: DigestFunction) -> bytes:
    """FindMissingBlobsRequest."""
    return b"".join(
        [
            _text_field(1, instance),
            *[digest_field(2, digest) for digest in digests],
            varint_field(3, function_number(function)),
        ]
    )


def missing_in(remote: str, data: bytes, asked: Sequence[Digest]) -> set[Digest]:
    """Return those of asked that a FindMissingBlobsResponse names.

    Raises RemoteFailed (malformed) when it names what was not asked about: an answer to something
    else says nothing about presence.
    """
    message = parse(remote, reapi.FindMissingBlobsResponse, data)
    by_name = {(digest.hash_hex, digest.size_bytes): digest for digest in asked}
    try:
        return {by_name[each.hash, each.size_bytes] for each in message.missing_blob_digests}
    except KeyError:
        detail = "FindMissingBlobs named a digest that was not asked about"
        raise failure(remote, FailureKind.MALFORMED, detail) from None


def batch_read(
    instance: str, digests: Iterable[Digest], function: DigestFunction, *, zstd: bool
) -> bytes:
    """BatchReadBlobsRequest."""
    request = reapi.BatchReadBlobsRequest(
        instance_name=instance,
        digests=[wire_digest(digest) for digest in digests],
        digest_function=function_number(function),  # type: ignore[arg-type]  # the stubs want its enum
    )
    if zstd:
        request.acceptable_compressors.append(reapi.Compressor.ZSTD)
    return request.SerializeToString()


def batch_update(instance: str, blobs: Iterable[BlobSent], function: DigestFunction) -> bytes:
    """BatchUpdateBlobsRequest."""
    parts = [_text_field(1, instance)]
    for blob in blobs:
        head = length_field(1, encode_digest(blob.digest)) + length_prefix(2, len(blob.data))
        tail = varint_field(3, reapi.Compressor.ZSTD if blob.compressed else 0)
        size = len(head) + len(blob.data) + len(tail)
        parts += (length_prefix(2, size), head, blob.data, tail)
    parts.append(varint_field(5, function_number(function)))
    return b"".join(parts)


def batch_read_items(remote: str, data: bytes) -> list[Item]:
    """Read a BatchReadBlobsResponse. Raises RemoteFailed (malformed)."""
    message = parse(remote, reapi.BatchReadBlobsResponse, data)
    return [
        Item(each.digest, each.status.code, each.status.message, each.data, each.compressor)
        for each in message.responses
    ]


def batch_update_items(remote: str, data: bytes) -> list[Item]:
    """Read a BatchUpdateBlobsResponse. Raises RemoteFailed (malformed)."""
    message = parse(remote, reapi.BatchUpdateBlobsResponse, data)
    return [Item(each.digest, each.status.code, each.status.message) for each in message.responses]


# -- ByteStream ----------------------------------------------------------------------------


def read_request(name: str, offset: int, limit: int) -> bytes:
    """google.bytestream.ReadRequest; limit 0: none."""
    return _text_field(1, name) + varint_field(2, offset) + varint_field(3, limit)


def read_data(remote: str, message: bytes) -> bytes:
    """Return the data of a ReadResponse. Raises RemoteFailed (malformed)."""
    start, end = _read_data(remote, message)
    return message[start:end]


def read_size(remote: str, message: bytes) -> int:
    """Return how many bytes of data a ReadResponse has. Raises RemoteFailed (malformed)."""
    start, end = _read_data(remote, message)
    return end - start


def _read_data(remote: str, message: bytes) -> tuple[int, int]:
    start = end = 0
    try:
        for number, kind, a, b in fields(message):
            if number == 10 and kind == LENGTH:
                start, end = a, b
    except InvalidRequest:
        detail = "its ReadResponse is not a valid message"
        raise failure(remote, FailureKind.MALFORMED, detail) from None
    return start, end


def write_request(name: str, offset: int, data: bytes, *, finish: bool) -> bytes:
    """google.bytestream.WriteRequest."""
    head = _text_field(1, name) + varint_field(2, offset) + varint_field(3, int(finish))
    return head + length_prefix(10, len(data)) + data


def committed(remote: str, data: bytes) -> int:
    """Return a WriteResponse's committed_size. Raises RemoteFailed."""
    return parse(remote, bytestream_pb2.WriteResponse, data).committed_size


def query_request(name: str) -> bytes:
    """google.bytestream.QueryWriteStatusRequest."""
    return _text_field(1, name)


def write_status(remote: str, data: bytes) -> tuple[int, bool]:
    """Return committed_size and complete of a QueryWriteStatusResponse. Raises RemoteFailed."""
    message = parse(remote, bytestream_pb2.QueryWriteStatusResponse, data)
    return message.committed_size, message.complete


def _text_field(number: int, value: str) -> bytes:
    return length_field(number, value.encode()) if value else b""


def grouped(sizes: Sequence[int], bytes_max: int, count_max: int) -> Iterator[slice]:
    """Cut a sequence of items of these sizes into runs that each fit; an item alone always does."""
    start = total = 0
    for at, size in enumerate(sizes):
        if at > start and (total + size > bytes_max or at - start >= count_max):
            yield slice(start, at)
            start, total = at, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
