"""What the hand-written codecs read and write is what the generated classes read and write."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.wire import bytestream_codec as bc
from federation.wire import cas_codec as cc
from federation.wire.digests import encode_digest, function_of, to_digest, to_digests

SHA256 = DigestFunction.SHA256
hashes = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, 2**63 - 1)
digests = st.builds(Digest, hashes, sizes, st.just(SHA256))
int64 = st.integers(-(2**63), 2**63 - 1)
UNKNOWN = [b"\xfa\x3f\x03abc", b"\xf8\x3f\x07", b"\xf9\x3f" + bytes(8), b"\xfb\x3f\x08\x01\xfc\x3f"]


def message(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


@given(digests)
def test_a_digest_is_written_as_the_runtime_writes_it(digest: Digest) -> None:
    assert encode_digest(digest) == message(digest).SerializeToString()
    assert to_digest(message(digest), SHA256) == digest


GOOD = digest_of(b"x").hash_hex
W01 = {
    "no characters": "",
    "63": GOOD[:-1],
    "65": GOOD + "0",
    "not hex": "g" + GOOD[1:],
    "upper case": GOOD.upper(),
    "one upper case": "A" + GOOD[1:],
    "newline": GOOD + "\n",
    "newline inside": GOOD[:-1] + "\n",
    "NUL": GOOD + "\0",
    "spaces inside": GOOD[:30] + "  " + GOOD[32:],
    "full-width digits": "\uff11" * 64,
}


@pytest.mark.parametrize("text", W01.values(), ids=W01.keys())
def test_w01_a_malformed_hash_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        to_digest(pb.Digest(hash=text, size_bytes=1), SHA256)


@pytest.mark.parametrize("size", [-1, -(2**63)])
def test_w02_a_negative_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequest, match="negative"):
        to_digest(pb.Digest(hash=GOOD, size_bytes=size), SHA256)


def test_w02_the_largest_size_is_a_digest_like_any_other() -> None:
    wire = pb.Digest(hash=GOOD, size_bytes=2**63 - 1)
    assert to_digest(wire, SHA256).size_bytes == 2**63 - 1


@pytest.mark.parametrize("value", [2, 3, 4, 8, 99, -1])
def test_w28_a_function_that_is_not_stored_under_is_refused(value: int) -> None:
    with pytest.raises(InvalidRequest):
        function_of(value)


def test_w28_unset_means_sha256() -> None:
    assert function_of(0) == function_of(1) == SHA256
    assert function_of(9) == DigestFunction.BLAKE3


@given(st.text(max_size=20), int64, st.booleans(), st.binary(max_size=300), st.randoms())
def test_a_write_request_in_any_order_with_unknown_fields(
    name: str, offset: int, finish: bool, data: bytes, rng: random.Random
) -> None:
    parts = [
        bs.WriteRequest(resource_name=name).SerializeToString(),
        bs.WriteRequest(write_offset=offset).SerializeToString(),
        bs.WriteRequest(finish_write=finish).SerializeToString(),
        bs.WriteRequest(data=data).SerializeToString(),
        *UNKNOWN,
    ]
    rng.shuffle(parts)
    got = bc.decode_write_request(b"".join(parts))
    assert got == bc.WriteRequest(name, offset, finish, data)


@given(st.lists(st.builds(bs.WriteRequest, data=st.binary(max_size=5), write_offset=int64)))
def test_of_a_repeated_scalar_the_last_wins(messages: list[bs.WriteRequest]) -> None:
    joined = b"".join(one.SerializeToString() for one in messages)
    merged = bs.WriteRequest.FromString(joined)
    got = bc.decode_write_request(joined)
    assert (got.data, got.write_offset) == (merged.data, merged.write_offset)


@given(st.binary(max_size=300), int64, st.booleans())
def test_bytestream_responses_are_what_the_runtime_writes(
    data: bytes, size: int, complete: bool
) -> None:
    head = bc.read_response_head(len(data)) if data else b""
    assert head + data == bs.ReadResponse(data=data).SerializeToString()
    written = bs.WriteResponse(committed_size=size).SerializeToString()
    assert bc.encode_write_response(size) == written
    status = bs.QueryWriteStatusResponse(committed_size=size, complete=complete)
    assert bc.encode_query_response(size, complete) == status.SerializeToString()


@given(st.text(max_size=9), int64, int64)
def test_a_read_request_is_read(name: str, offset: int, limit: int) -> None:
    wire = bs.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
    got = bc.decode_read_request(wire.SerializeToString())
    assert got == bc.ReadRequest(name, offset, limit)


@given(st.lists(digests, max_size=5))
def test_find_missing_both_ways(several: list[Digest]) -> None:
    request = pb.FindMissingBlobsRequest(
        instance_name="a/b", blob_digests=[message(one) for one in several]
    )
    assert cc.decode_find_missing(request.SerializeToString()) == ("a/b", several)
    response = pb.FindMissingBlobsResponse(missing_blob_digests=[message(d) for d in several])
    assert cc.encode_missing(several) == response.SerializeToString()


def test_find_missing_reads_the_function_wherever_it_stands() -> None:
    digest = digest_of(b"x", DigestFunction.BLAKE3)
    parts = [
        pb.FindMissingBlobsRequest(blob_digests=[message(digest)]).SerializeToString(),
        pb.FindMissingBlobsRequest(digest_function=pb.DigestFunction.BLAKE3).SerializeToString(),
    ]
    for data in (b"".join(parts), b"".join(reversed(parts))):
        assert cc.decode_find_missing(data).digests == [digest]


@given(st.lists(st.tuples(digests, st.binary(max_size=50), st.integers(0, 3)), max_size=4))
def test_a_batch_update_is_read(items: list[tuple[Digest, bytes, int]]) -> None:
    request = pb.BatchUpdateBlobsRequest()
    for digest, data, compressor in items:
        request.requests.add(digest=message(digest), data=data, compressor=compressor)
    got = cc.decode_batch_update(request.SerializeToString())
    assert list(zip(got.digests, got.data, got.compressors, strict=True)) == items


answers = st.builds(
    cc.Answer,
    digests.map(encode_digest),
    st.integers(0, 16),
    st.text(max_size=10),
    st.binary(max_size=300),
    st.sampled_from([0, 1]),
)


@given(st.lists(answers, max_size=4))
def test_batch_responses_are_what_the_runtime_writes(several: list[cc.Answer]) -> None:
    read, update = pb.BatchReadBlobsResponse(), pb.BatchUpdateBlobsResponse()
    for one in several:
        message_sent = one.message if one.code else ""
        status = status_pb2.Status(code=one.code, message=message_sent)
        digest = pb.Digest.FromString(one.raw_digest)
        read.responses.add(digest=digest, data=one.data, status=status, compressor=one.compressor)
        update.responses.add(digest=digest, status=status)
    assert cc.encode_batch_read(several) == read.SerializeToString()
    assert cc.encode_batch_update(several) == update.SerializeToString()


@given(st.lists(digests, max_size=4))
def test_a_batch_that_is_stored_whole_is_answered_as_the_runtime_writes_it(
    stored: list[Digest],
) -> None:
    update = pb.BatchUpdateBlobsResponse()
    for digest in stored:
        update.responses.add(digest=message(digest), status=status_pb2.Status())
    assert cc.encode_stored(stored) == update.SerializeToString()


BAD = ["", "0" * 63, "0" * 65, "A" * 64, " " + "0" * 64, "00 " * 21 + "0", "g" * 64, "\u0661" * 64]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*BAD, *[GOOD] * 8]), st.sampled_from([-1, 0, 0, 0, 1, 2**63 - 1])
        ),
        max_size=3,
    )
)
def test_digests_converted_together_are_those_converted_alone(sent: list[tuple[str, int]]) -> None:
    messages = [pb.Digest(hash=text, size_bytes=size_bytes) for text, size_bytes in sent]
    alone: list[Digest] | None
    try:
        alone = [to_digest(one, DigestFunction.SHA256) for one in messages]
    except InvalidRequest:
        alone = None
    assert (to_digests(messages, DigestFunction.SHA256) or None) == (alone or None)


def test_a_malformed_digest_of_a_batch_is_its_items_error_and_comes_back_as_sent() -> None:
    bad = pb.Digest(hash="ABC", size_bytes=-1)
    request = pb.BatchReadBlobsRequest(digests=[bad, message(digest_of(b"x"))])
    first, second = cc.decode_batch_read(request.SerializeToString()).items
    assert isinstance(first, cc.Malformed)
    assert pb.Digest.FromString(first.raw) == bad
    assert second == digest_of(b"x")


@given(st.lists(st.binary(max_size=300)))
def test_an_answer_of_held_blobs_is_what_the_runtime_writes(blobs: list[bytes]) -> None:
    digests = [digest_of(data) for data in blobs]
    answers = [cc.Answer(encode_digest(digest_of(data)), data=data) for data in blobs]
    written = cc.encode_held(cc.held_heads(digests), blobs)
    assert written == cc.encode_batch_read(answers)
    read = pb.BatchReadBlobsResponse.FromString(written).responses
    assert [(one.data, one.digest.size_bytes) for one in read] == [(b, len(b)) for b in blobs]


def test_zstd_is_found_among_unknown_compressors() -> None:
    request = pb.BatchReadBlobsRequest(acceptable_compressors=[77, 1, 5])  # type: ignore[list-item]
    assert cc.decode_batch_read(request.SerializeToString()).zstd_accepted
    request = pb.BatchReadBlobsRequest(acceptable_compressors=[77, 0, 2])  # type: ignore[list-item]
    assert not cc.decode_batch_read(request.SerializeToString()).zstd_accepted


def test_w33_a_batch_that_is_not_protobuf_is_refused() -> None:
    for decode in (cc.decode_batch_update, cc.decode_batch_read, cc.decode_find_missing):
        with pytest.raises(DecodeError):
            decode(b"\x0a\xff")


def test_a_tree_page_carries_directories_as_they_are() -> None:
    child = pb.Digest(hash=GOOD, size_bytes=3)
    one = pb.Directory(directories=[pb.DirectoryNode(name="d", digest=child)])
    page = cc.encode_tree_page([one.SerializeToString(), b""])
    assert list(pb.GetTreeResponse.FromString(page).directories) == [one, pb.Directory()]
    assert cc.subdirectories(one.SerializeToString(), SHA256) == [to_digest(child, SHA256)]


def test_a_tree_with_a_negative_page_size_is_refused() -> None:
    request = pb.GetTreeRequest(root_digest=message(digest_of(b"x")), page_size=-1)
    with pytest.raises(InvalidRequest):
        cc.decode_get_tree(request.SerializeToString())
