"""What is written to a remote by hand is what the protobuf runtime writes, and reads the same."""

from __future__ import annotations

import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.remote import codec
from federation.remote.codec import BlobSent, Item
from federation.remote.failures import RemoteFailed
from federation.wire.digests import digest_list

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3

functions = st.sampled_from([SHA256, BLAKE3])
blobs = st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=4)
sizes = st.one_of(st.sampled_from([0, 0x30, 127, 128, 2**40]), st.integers(0, 2**63 - 1))
hashes = st.binary(min_size=32, max_size=32)
names = st.text(max_size=10)


def message(digest: Digest) -> reapi.Digest:
    return reapi.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


def digests_of(function: DigestFunction) -> st.SearchStrategy[list[Digest]]:
    return st.lists(st.builds(Digest, hashes, sizes, st.just(function)), max_size=4)


@given(names, functions.flatmap(digests_of), st.booleans())
def test_questions(instance: str, digests: list[Digest], zstd: bool) -> None:
    function = digests[0].function if digests else SHA256
    find = reapi.FindMissingBlobsRequest(
        instance_name=instance,
        blob_digests=map(message, digests),
        digest_function=codec.function_number(function),  # type: ignore[arg-type]
    )
    listed = digest_list(digests)
    assert codec.find_missing(instance, listed, function) == find.SerializeToString()
    read = reapi.BatchReadBlobsRequest(
        instance_name=instance,
        digests=map(message, digests),
        acceptable_compressors=[reapi.Compressor.ZSTD] if zstd else [],
        digest_function=codec.function_number(function),  # type: ignore[arg-type]
    )
    assert codec.batch_read(instance, digests, function, zstd=zstd) == read.SerializeToString()


@given(names, blobs, functions)
def test_batches(
    instance: str, several: list[tuple[bytes, bool]], function: DigestFunction
) -> None:
    sent = [BlobSent(digest_of(data, function), data, packed) for data, packed in several]
    request = reapi.BatchUpdateBlobsRequest.FromString(codec.batch_update(instance, sent, function))
    assert request.instance_name == instance
    assert request.digest_function == codec.function_number(function)
    assert [(one.digest, one.data, one.compressor) for one in request.requests] == [
        (message(blob.digest), blob.data, int(blob.compressed)) for blob in sent
    ]


def test_an_answer_that_names_no_digest_is_nobodys_and_the_others_count() -> None:
    good, status = digest_of(b"good"), status_pb2.Status(code=5, message="gone")
    read, update = reapi.BatchReadBlobsResponse(), reapi.BatchUpdateBlobsResponse()
    for digest in (reapi.Digest(hash="no hash", size_bytes=3), message(good)):
        read.responses.add(digest=digest, data=b"good", compressor=1)
        update.responses.add(digest=digest, status=status)
    assert codec.batch_read_items("far", read.SerializeToString(), SHA256, len(read.responses)) == [
        Item(None, 0, "", b"good", 1),
        Item(good, 0, "", b"good", 1),
    ]
    assert codec.batch_update_items("far", update.SerializeToString(), SHA256, 9) == [
        Item(None, 5, "gone"),
        Item(good, 5, "gone"),
    ]


@pytest.mark.parametrize("named", [digest_of(b"other"), None])
def test_a_missing_blob_that_was_not_asked_about_is_no_answer(named: Digest | None) -> None:
    asked = [digest_of(b"a"), digest_of(b"b")]
    wire = reapi.Digest(hash="no hash") if named is None else message(named)
    answer = reapi.FindMissingBlobsResponse(missing_blob_digests=[message(asked[0]), wire])
    listed = digest_list(asked)
    with pytest.raises(RemoteFailed, match="not asked about"):
        codec.missing_in("far", answer.SerializeToString(), asked, listed)
    answer = reapi.FindMissingBlobsResponse(missing_blob_digests=[message(asked[0])] * 2)
    assert codec.missing_in("far", answer.SerializeToString(), asked, listed) == {asked[0]}


def test_all_or_none_missing_is_told_from_the_bytes() -> None:
    asked = [digest_of(b"a"), digest_of(b"bb")]
    listed = digest_list(asked)
    answer = reapi.FindMissingBlobsResponse(missing_blob_digests=map(message, asked))
    assert answer.SerializeToString() == listed
    assert codec.missing_in("far", listed, asked, listed) == set(asked)
    assert codec.missing_in("far", b"", asked, listed) == set()


def test_a_batch_that_was_taken_whole_is_told_from_the_bytes() -> None:
    sent = [digest_of(b"a"), digest_of(b"bb")]
    update = reapi.BatchUpdateBlobsResponse()
    for digest in sent:
        update.responses.add(digest=message(digest), status=status_pb2.Status())
    assert codec.all_taken(update.SerializeToString(), sent)
    assert not codec.all_taken(update.SerializeToString(), sent[::-1])
    update.responses[1].status.code = 8
    assert not codec.all_taken(update.SerializeToString(), sent)
