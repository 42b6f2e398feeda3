"""Lists of digests cut by hand say what the protobuf runtime says, or nothing."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation.digest import HASH_BYTES
from federation.wire.digest_lists import read_digests

hashes = st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)
sizes = st.one_of(
    st.sampled_from([0, 1, 127, 128, 10, 64, 0x0A40, 2**56 - 1]), st.integers(0, 2**40)
)
digests = st.builds(lambda raw, size: pb.Digest(hash=raw.hex(), size_bytes=size), hashes, sizes)


def request(several: list[pb.Digest], instance: str = "", function: int = 0) -> bytes:
    wire = pb.FindMissingBlobsRequest(
        instance_name=instance,
        blob_digests=several,
        digest_function=function,  # type: ignore[arg-type]
    )
    return wire.SerializeToString()


@given(st.lists(digests, min_size=1, max_size=8), st.text(max_size=40), st.sampled_from([0, 1, 9]))
def test_what_clients_send_is_read(several: list[pb.Digest], instance: str, function: int) -> None:
    found = read_digests(request(several, instance, function))
    assert found is not None
    assert [raw.hex() for raw in found.hashes] == [one.hash for one in several]
    assert found.sizes == [one.size_bytes for one in several]
    assert found.rest == request([], instance, function)


@given(
    st.lists(digests, min_size=1, max_size=3),
    st.integers(0, 220),
    st.integers(0, 255),
    st.sampled_from(["replace", "insert", "remove", "cut"]),
)
def test_whatever_else_is_read_like_the_runtime_or_not_at_all(
    several: list[pb.Digest], at: int, byte: int, how: str
) -> None:
    good = request(several, "main", 1)
    at %= len(good)
    data = {
        "replace": good[:at] + bytes((byte,)) + good[at + 1 :],
        "insert": good[:at] + bytes((byte,)) + good[at:],
        "remove": good[:at] + good[at + 1 :],
        "cut": good[:at],
    }[how]
    found = read_digests(data)
    if found is None:
        return
    try:
        rest = pb.FindMissingBlobsRequest.FromString(found.rest)
    except DecodeError:  # which the codec raises, as it does for the whole
        return
    whole = pb.FindMissingBlobsRequest.FromString(data)
    if not rest.blob_digests:
        assert [raw.hex() for raw in found.hashes] == [one.hash for one in whole.blob_digests]
        assert found.sizes == [one.size_bytes for one in whole.blob_digests]
        assert rest.instance_name == whole.instance_name


def test_hashes_that_are_none_are_left_to_the_runtime() -> None:
    for text in ("A" * 64, " " * 2 + "a" * 62, "g" * 64, "é" * 32):
        assert read_digests(request([pb.Digest(hash=text, size_bytes=1)])) is None


def test_a_digest_without_anything_is_not_lost() -> None:
    full = pb.Digest(hash="a" * 64, size_bytes=1)
    assert read_digests(request([full, pb.Digest()])) is None
    found = read_digests(request([full]) + request([], "main") + request([pb.Digest()]))
    assert found is not None
    assert pb.FindMissingBlobsRequest.FromString(found.rest).blob_digests == [pb.Digest()]


def test_a_request_without_digests_is_left_to_the_runtime() -> None:
    assert read_digests(b"") is None
    assert read_digests(request([], "main", 1)) is None
    assert read_digests(b"\x0a") is None
    assert read_digests(b"\x0a\x7f") is None
