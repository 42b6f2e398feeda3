from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from federation._proto.google.bytestream import bytestream_pb2
from federation.core.errors import InvalidRequest
from federation.wire import protobuf as fields
from federation.wire.bytestream_codec import decode_write_request


def read_all(data: fields.Buffer) -> list[fields.Field]:
    return list(fields.fields(data))


@given(st.integers(0, 2**64 - 1))
def test_a_varint_comes_back(value: int) -> None:
    data = fields.varint(value)
    assert fields.read_varint(data, 0, len(data)) == (value, len(data))


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_signed_varint_comes_back(value: int) -> None:
    data = fields.varint(value)
    assert fields.signed(fields.read_varint(data, 0, len(data))[0]) == value


@given(st.integers(-(2**31), 2**31 - 1))
def test_an_int32_is_read_as_protobuf_reads_it(value: int) -> None:
    assert fields.int32(value & (2**64 - 1)) == value


def nested_groups(depth: int) -> bytes:
    return b"\x7b" * depth + b"\x7c" * depth


W33 = {
    "truncated tag": b"\x80",
    "truncated varint": b"\x10\xff",
    "over-long varint": b"\x10" + b"\xff" * 10 + b"\x01",
    "over-long tag": b"\x90\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x01",
    "length past the end": b"\x52\x05abc",
    "length of 2^63": b"\x52" + b"\xff" * 8 + b"\x7f",
    "field number 0": b"\x02\x00",
    "group left open": b"\x7b\x08\x01",
    "stray end of group": b"\x7c",
    "group closed by another": b"\x7b\x84\x01",
    "groups nested 10,000 deep": nested_groups(10_000),
    "wire type 6": b"\x0e",
    "wire type 7": b"\x0f",
    "truncated fixed64": b"\x09\x01",
    "truncated fixed32": b"\x0d\x01",
    "a string that is not UTF-8": b"\x0a\x02\xff\xfe",
}


@pytest.mark.parametrize("data", W33.values(), ids=W33.keys())
def test_w33_what_the_runtime_refuses_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        bytestream_pb2.WriteRequest.FromString(data)
    with pytest.raises(InvalidRequest):
        decode_write_request(data)


@given(st.binary(max_size=60))
@example(nested_groups(99))
@example(nested_groups(100))
@example(nested_groups(101))
@example(b"\x7b\x09" + bytes(8) + b"\x0d" + bytes(4) + b"\x52\x01x\x10\x05\x7c")
@example(b"\x10" + b"\xff" * 9 + b"\x02")
@example(b"\x10" + b"\xff" * 9 + b"\x7f")
@example(b"\xd2\x80\x80\x80\x80\x00\x00")
def test_any_bytes_are_judged_as_the_runtime_judges_them(data: bytes) -> None:
    try:
        expected = bytestream_pb2.WriteRequest.FromString(data)
    except DecodeError:
        with pytest.raises(InvalidRequest):
            decode_write_request(data)
        return
    got = decode_write_request(data)
    assert got.resource_name == expected.resource_name
    assert got.write_offset == expected.write_offset
    assert got.finish_write == expected.finish_write
    assert got.data == expected.data


def test_memoryviews_are_read_like_bytes() -> None:
    data = b"\x0a\x03abc\x10\x96\x01"
    assert read_all(memoryview(data)) == read_all(data) == [(1, 2, 2, 5), (2, 0, 150, 8)]
    assert fields.text(memoryview(data), 2, 5) == "abc"


def test_a_part_of_a_buffer_is_read_as_a_message_of_its_own() -> None:
    data = b"junk\x10\x05junk"
    assert list(fields.fields(data, 4, 6)) == [(2, 0, 5, 6)]
    with pytest.raises(InvalidRequest):
        list(fields.fields(data, 4, 5))


def test_the_default_is_left_out() -> None:
    assert fields.varint_field(1, 0) == b""
    assert fields.length_field(1, b"") == b"\x0a\x00"
    assert fields.length_prefix(10, 300) == b"\x52\xac\x02"
