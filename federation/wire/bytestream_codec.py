"""The messages of google.bytestream.ByteStream; those with blob data by hand, to copy it once."""

from __future__ import annotations

from typing import NamedTuple

from federation._proto.google.bytestream import bytestream_pb2
from federation.wire.bounds import few_fields
from federation.wire.protobuf import (
    LENGTH,
    VARINT,
    length_prefix,
    signed,
    text,
    varint_field,
)

_VIEWED_BYTES = 64 * 1024  # copying less costs nothing


class ReadRequest(NamedTuple):
    """google.bytestream.ReadRequest."""

    resource_name: str
    read_offset: int
    read_limit: int


class WriteRequest(NamedTuple):
    """google.bytestream.WriteRequest."""

    resource_name: str
    write_offset: int
    finish_write: bool
    data: bytes | memoryview  # a view of the message, if it is large


def decode_read_request(data: bytes) -> ReadRequest:
    """Raises DecodeError."""
    message = bytestream_pb2.ReadRequest.FromString(data)
    return ReadRequest(message.resource_name, message.read_offset, message.read_limit)


def decode_query_request(data: bytes) -> str:
    """Return the resource name of a QueryWriteStatusRequest. Raises DecodeError."""
    return bytestream_pb2.QueryWriteStatusRequest.FromString(data).resource_name


def decode_write_request(data: bytes) -> WriteRequest:
    """Raises InvalidRequest when it is not a valid message."""
    resource_name, write_offset, finish_write, start, end = "", 0, False, 0, 0
    # A field that occurs twice counts with its last value, and one of another type is unknown.
    for number, kind, a, b in few_fields(data):
        if kind == LENGTH:
            if number == 10:
                start, end = a, b
            elif number == 1:
                resource_name = text(data, a, b)
        elif kind == VARINT:
            if number == 2:
                write_offset = signed(a)
            elif number == 3:
                finish_write = a != 0
    # A view keeps the whole message alive, which only pays for large data.
    whole = memoryview(data) if end - start >= _VIEWED_BYTES else data
    return WriteRequest(resource_name, write_offset, finish_write, whole[start:end])


def read_response_head(size_bytes: int) -> bytes:
    """Return what precedes size_bytes (at least 1) of data in a google.bytestream.ReadResponse."""
    return length_prefix(10, size_bytes)


def encode_write_response(committed_size: int) -> bytes:
    """google.bytestream.WriteResponse; -1 is the answer for a zstd blob that is already held."""
    return varint_field(1, committed_size)


def encode_query_response(committed_size: int, complete: bool) -> bytes:
    """google.bytestream.QueryWriteStatusResponse."""
    return varint_field(1, committed_size) + varint_field(2, int(complete))
