"""The messages of the protocol as a client writes and reads them. Answers are checked, not trusted.

Messages with many small fields go through the compiled runtime. Those that carry parts of large
blobs are parsed by hand, which copies each part once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.google.bytestream import bytestream_pb2
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest, RequestTooLarge
from federation.remote.failures import FailureKind, failure
from federation.wire.bounds import RESULT_FIELD_BYTES, check_fields, few_fields, pieces
from federation.wire.cas_codec import encode_stored
from federation.wire.digests import (
    Frame,
    blank,
    cut_frame,
    digest_field,
    digest_list,
    encode_digest,
    framed,
    to_digest,
    to_digests_or,
)
from federation.wire.protobuf import LENGTH, length_field, length_prefix, varint_field

_OTHER_FIELDS = 100  # of an answer, beside its items

_M = TypeVar("_M", bound=Message)


class BlobSent(NamedTuple):
    """A blob of a batch as it travels."""

    digest: Digest
    data: bytes
    compressed: bool = False


class Item(NamedTuple):
    """One answer of a batch: its digest (None: there is none in it), status, and a read's blob."""

    digest: Digest | None
    code: int
    message: str
    data: bytes = b""
    compressor: int = 0


def parse(remote: str, kind: type[_M], data: bytes) -> _M:
    """Read a response. Raises RemoteFailed (malformed)."""
    return _parse_some(remote, kind, data, None)


def _parse_some(remote: str, kind: type[_M], data: bytes, items_max: int | None) -> _M:
    """Parse a message of at most items_max items (None: few enough for its size)."""
    most = None if items_max is None else items_max + _OTHER_FIELDS
    try:
        # Before parsing: a megabyte of empty items becomes hundreds in objects.
        check_fields(data, most=most)
        return kind.FromString(data)
    except RequestTooLarge as error:
        detail = f"its {kind.DESCRIPTOR.name} is implausible: {error}"
        raise failure(remote, FailureKind.MALFORMED, detail) from None
    except (DecodeError, InvalidRequest):
        detail = f"its {kind.DESCRIPTOR.name} is not a valid message"
        raise failure(remote, FailureKind.MALFORMED, detail) from None


def check_result(remote: str, data: bytes) -> None:
    """Check that this is an ActionResult, as far as can be told without making objects of it all.

    Raises RemoteFailed (malformed).
    """
    try:
        check_fields(data, RESULT_FIELD_BYTES)
        # In pieces, none of which is kept: a result may name a hundred thousand outputs.
        for _ in pieces(reapi.ActionResult, data):
            pass
    except InvalidRequest as error:
        detail = f"its ActionResult is not a valid message: {error}"
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


def find_missing(instance: str, listed: bytes, function: DigestFunction) -> bytes:
    """FindMissingBlobsRequest. listed: the digests, as a digest_list."""
    how = varint_field(3, function_number(function))
    return _text_field(1, instance) + listed + how


def missing_in(remote: str, data: bytes, asked: Sequence[Digest], listed: bytes) -> set[Digest]:
    """Return those of asked, at least one and all of one function, that the response names.

    listed: the same as a digest_list, which is also what a response says that names all of them.

    Raises RemoteFailed (malformed) when it names what was not asked about: an answer to something
    else says nothing about presence.
    """
    # The two answers that nearly all questions get are known by their bytes.
    if not data:
        return set()
    if data == listed:
        return set(asked)
    message = _parse_some(remote, reapi.FindMissingBlobsResponse, data, len(asked))
    named = set(_named(message.missing_blob_digests, asked[0].function))
    missing = {digest for digest in asked if digest in named}
    # An answer to another question must not count as "the rest is held".
    if len(missing) < len(named):
        detail = "FindMissingBlobs named a digest that was not asked about"
        raise failure(remote, FailureKind.MALFORMED, detail)
    return missing


def batch_read(
    instance: str, digests: Sequence[Digest], function: DigestFunction, *, zstd: bool
) -> bytes:
    """BatchReadBlobsRequest."""
    compressors = length_field(3, bytes((reapi.Compressor.ZSTD,))) if zstd else b""
    how = compressors + varint_field(4, function_number(function))
    return _text_field(1, instance) + digest_list(digests) + how


def batch_update(instance: str, blobs: Sequence[BlobSent], function: DigestFunction) -> bytes:
    """BatchUpdateBlobsRequest."""
    parts = [_text_field(1, instance)]
    # All plain ones at once, which is most of what a batch of small blobs costs.
    heads = iter(framed([blob.digest for blob in blobs if not blob.compressed], _sent))
    for blob in blobs:
        if not blob.compressed:
            parts += (next(heads), blob.data)
            continue
        head = length_field(1, encode_digest(blob.digest)) + length_prefix(2, len(blob.data))
        tail = varint_field(3, reapi.Compressor.ZSTD)
        # The length stands before the item, so it is known before its parts are joined.
        size = len(head) + len(blob.data) + len(tail)
        parts += (length_prefix(2, size), head, blob.data, tail)
    parts.append(varint_field(5, function_number(function)))
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _sent(size_bytes: int) -> Frame:
    """What stands around a plain blob's hash in a batch that is sent, up to its bytes."""
    head = digest_field(1, blank(size_bytes)) + length_prefix(2, size_bytes)
    return cut_frame(length_prefix(2, len(head) + size_bytes) + head)


def batch_read_items(remote: str, data: bytes, function: DigestFunction, asked: int) -> list[Item]:
    """Read a BatchReadBlobsResponse to so many digests. Raises RemoteFailed (malformed)."""
    answers = _parse_some(remote, reapi.BatchReadBlobsResponse, data, asked).responses
    _check_number(remote, len(answers), asked)
    named = _named([each.digest for each in answers], function)
    return [
        Item(digest, *_status(each.status), each.data, each.compressor)
        for digest, each in zip(named, answers, strict=True)
    ]


def all_taken(data: bytes, digests: Sequence[Digest]) -> bool:
    """Whether a BatchUpdateBlobsResponse is what a node of ours says when it took all of these.

    Nearly each is, and this takes a quarter of the time of reading it.
    """
    return data == encode_stored(digests)


def batch_update_items(remote: str, data: bytes, function: DigestFunction, sent: int) -> list[Item]:
    """Read a BatchUpdateBlobsResponse to so many blobs. Raises RemoteFailed (malformed)."""
    answers = _parse_some(remote, reapi.BatchUpdateBlobsResponse, data, sent).responses
    _check_number(remote, len(answers), sent)
    named = _named([each.digest for each in answers], function)
    return [
        Item(digest, *_status(each.status)) for digest, each in zip(named, answers, strict=True)
    ]


def _check_number(remote: str, answers: int, asked: int) -> None:
    if answers > asked:
        # A repeated answer would overwrite an earlier one, be it better or worse.
        detail = f"{answers} answers to {asked} blobs"
        raise failure(remote, FailureKind.MALFORMED, detail)


def _status(status: status_pb2.Status) -> tuple[int, str]:
    code = status.code
    return code, status.message if code else ""


def _named(messages: Sequence[reapi.Digest], function: DigestFunction) -> Sequence[Digest | None]:
    """Return the digests; None in the place of a malformed one."""
    try:
        return to_digests_or(messages, function, lambda _message, _error: None)
    except InvalidRequest:  # of many
        # So many malformed ones are no answer about any blob.
        return [None] * len(messages)


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
        # The last one wins, as protobuf has it for a field that is repeated by mistake.
        for number, kind, a, b in few_fields(message):
            if number == 10 and kind == LENGTH:
                start, end = a, b
    except InvalidRequest:
        detail = "its ReadResponse is not a valid message"
        raise failure(remote, FailureKind.MALFORMED, detail) from None
    return start, end


def write_request(name: str, offset: int, data: bytes, *, finish: bool) -> bytes:
    """google.bytestream.WriteRequest."""
    # The name in each message, as BuildStream's clients send it; only the first has to have it.
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
    # proto3 leaves the default out.
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
