"""The messages of ContentAddressableStorage (REAPI v2), to and from digests and blobs.

The compiled runtime reads requests: for thousands of small fields it is faster than Python code.
Their digests are converted all at once. Responses are joined by hand, which copies each blob once
and makes no object for each item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.wire.bounds import SMALL_STRUCTURE_BYTES, check_fields, pieces
from federation.wire.digests import (
    Frame,
    blank,
    cut_frame,
    digest_field,
    digest_list,
    framed,
    function_of,
    to_digest,
    to_digests,
    to_digests_or,
)
from federation.wire.protobuf import length_field, length_prefix, varint_field
from federation.wire.resource_name import check_instance

ZSTD = pb.Compressor.ZSTD
IDENTITY = pb.Compressor.IDENTITY

# An answer costs about 80 bytes beside its data, and clients take 4 MiB in one message.
BATCH_ITEMS_MAX = 2**22 // 96
_OTHER_FIELDS = 100  # beside the items


class FindMissing(NamedTuple):
    """FindMissingBlobsRequest."""

    instance: str
    digests: list[Digest]


class Malformed(NamedTuple):
    """A malformed digest: its bytes as sent, for the answer."""

    raw: bytes
    error: InvalidRequest


class BatchUpdate(NamedTuple):
    """BatchUpdateBlobsRequest, in columns: making a tuple for each item costs as much again."""

    instance: str
    digests: Sequence[Digest | Malformed]
    data: Sequence[bytes]  # as sent
    compressors: Sequence[int]


class BatchRead(NamedTuple):
    """BatchReadBlobsRequest."""

    instance: str
    items: Sequence[Digest | Malformed]
    zstd_accepted: bool


class Answer(NamedTuple):
    """One item of a batch response. code and message are those of google.rpc.Status."""

    raw_digest: bytes
    code: int = 0
    message: str = ""
    data: bytes = b""
    compressor: int = IDENTITY


class GetTree(NamedTuple):
    """GetTreeRequest. page_size 0: the server chooses."""

    instance: str
    root: Digest
    page_size: int
    page_token: str


def decode_find_missing(data: bytes) -> FindMissing:
    """Raises DecodeError, InvalidRequest."""
    check_fields(data)
    message = pb.FindMissingBlobsRequest.FromString(data)
    function = function_of(message.digest_function)
    instance = check_instance(message.instance_name)
    digests = to_digests(message.blob_digests, function)
    if digests is None:
        # One is malformed: read one by one the error names it.
        digests = [to_digest(one, function) for one in message.blob_digests]
    return FindMissing(instance, digests)


def encode_missing(missing: Iterable[Digest]) -> bytes:
    """FindMissingBlobsResponse."""
    return digest_list(list(missing))


_parts_of_item = attrgetter("digest", "data", "compressor")


def decode_batch_update(data: bytes) -> BatchUpdate:
    """Raises DecodeError, InvalidRequest; a malformed digest is its item's error."""
    check_fields(data, most=BATCH_ITEMS_MAX + _OTHER_FIELDS)
    message = pb.BatchUpdateBlobsRequest.FromString(data)
    function = function_of(message.digest_function)
    instance = check_instance(message.instance_name)
    # BuildStream 1.6 sends an empty batch to see whether the service is there.
    if not message.requests:
        return BatchUpdate(instance, [], [], [])
    sent, blobs, compressors = zip(*map(_parts_of_item, message.requests), strict=True)
    return BatchUpdate(instance, to_digests_or(sent, function, _malformed), blobs, compressors)


def decode_batch_read(data: bytes) -> BatchRead:
    """Raises DecodeError, InvalidRequest; a malformed digest is its item's error."""
    check_fields(data, most=BATCH_ITEMS_MAX + _OTHER_FIELDS)
    message = pb.BatchReadBlobsRequest.FromString(data)
    function = function_of(message.digest_function)
    instance = check_instance(message.instance_name)
    items = to_digests_or(message.digests, function, _malformed)
    compressors = message.acceptable_compressors
    # They are packed, so one field may hold millions, which no count of fields shows.
    if len(compressors) > _OTHER_FIELDS:
        raise InvalidRequest(f"{len(compressors)} compressors; at most {_OTHER_FIELDS} are taken")
    return BatchRead(instance, items, ZSTD in compressors)


def _malformed(message: pb.Digest, error: InvalidRequest) -> Malformed:
    return Malformed(message.SerializeToString(), error)


def encode_batch_update(answers: Iterable[Answer]) -> bytes:
    """BatchUpdateBlobsResponse."""
    return b"".join(
        [
            length_field(1, length_field(1, one.raw_digest) + length_field(2, _status(one)))
            for one in answers
        ]
    )


def encode_stored(digests: Sequence[Digest]) -> bytes:
    """BatchUpdateBlobsResponse for blobs that were all stored, which is the usual case."""
    return b"".join(framed(digests, _stored))


@lru_cache(maxsize=4096)
def _stored(size_bytes: int) -> Frame:
    item = digest_field(1, blank(size_bytes)) + length_field(2, b"")
    return cut_frame(length_field(1, item))


def encode_batch_read(answers: Sequence[Answer]) -> bytes:
    """BatchReadBlobsResponse."""
    parts: list[bytes] = []
    for one in answers:
        raw_digest, code, _, data, compressor = one
        head = length_field(1, raw_digest)
        # proto3 leaves an empty field out, and so do the frames of encode_held.
        if data:
            head += length_prefix(2, len(data))
        # Nearly all items have a status of 0, which is the same bytes each time.
        tail = _FINE
        if code or compressor:
            tail = length_field(3, _status(one)) + varint_field(4, compressor)
        parts += (length_prefix(1, len(head) + len(data) + len(tail)), head, data, tail)
    return b"".join(parts)


_FINE = length_field(3, b"")  # a status of 0, and no compressor


def encode_held(heads: Iterable[bytes], blobs: Iterable[bytes]) -> bytes:
    """BatchReadBlobsResponse for blobs that are all present and not compressed; see held_heads.

    Nearly every answer is one: it takes a tenth of the time that encode_batch_read does.
    """
    parts: list[bytes] = []
    for head, data in zip(heads, blobs, strict=True):
        parts += (head, data, _FINE)
    return b"".join(parts)


def held_heads(digests: Sequence[Digest]) -> list[bytes]:
    """Return for each item of an encode_held the bytes before those of the blob."""
    return framed(digests, _held)


@lru_cache(maxsize=4096)
def _held(size_bytes: int) -> Frame:
    head = digest_field(1, blank(size_bytes))
    head += length_prefix(2, size_bytes) if size_bytes else b""
    return cut_frame(length_prefix(1, len(head) + size_bytes + len(_FINE)) + head)


def _status(answer: Answer) -> bytes:
    """google.rpc.Status."""
    if not answer.code:
        return b""
    text = length_field(2, answer.message.encode()) if answer.message else b""
    return varint_field(1, answer.code) + text


def decode_get_tree(data: bytes) -> GetTree:
    """Raises DecodeError, InvalidRequest."""
    message = pb.GetTreeRequest.FromString(data)
    function = function_of(message.digest_function)
    instance = check_instance(message.instance_name)
    # REAPI: a server may return fewer than were asked for, but a negative number means nothing.
    if message.page_size < 0:
        raise InvalidRequest(f"page_size {message.page_size} is negative")
    root = to_digest(message.root_digest, function)
    return GetTree(instance, root, message.page_size, message.page_token)


def subdirectories(directory: bytes, function: DigestFunction) -> list[Digest]:
    """Return the children a serialized Directory names. Raises DecodeError, InvalidRequest."""
    if len(directory) <= SMALL_STRUCTURE_BYTES:  # parsing it in parts costs as much again
        small = pb.Directory.FromString(directory)
        return [to_digest(node.digest, function) for node in small.directories]
    return [
        to_digest(node.digest, function)
        for part in pieces(pb.Directory, directory)
        for node in part.directories
    ]


def encode_tree_page(directories: Iterable[bytes]) -> bytes:
    """GetTreeResponse from directories as they are stored."""
    return b"".join([length_field(1, directory) for directory in directories])
