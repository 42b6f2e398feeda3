"""Messages are counted before objects are made of them."""

from __future__ import annotations

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.closure.names import Shape, names_of_structure
from federation.core.digest import DigestFunction, digest_of
from federation.core.errors import InvalidRequest, RequestTooLarge
from federation.remote import codec
from federation.remote.failures import RemoteFailed
from federation.wire import bounds
from federation.wire.action_result import read_update
from federation.wire.bounds import FREE_FIELDS, PIECE_FIELDS, check_fields, pieces
from federation.wire.bytestream_codec import decode_write_request
from federation.wire.cas_codec import (
    BATCH_ITEMS_MAX,
    decode_batch_read,
    decode_batch_update,
    decode_find_missing,
    subdirectories,
)

SHA256 = DigestFunction.SHA256
MIB = 2**20
DIGEST = reapi.Digest(hash=digest_of(b"x").hash_hex, size_bytes=1)


@pytest.mark.parametrize("decode", [decode_find_missing, decode_batch_read, decode_batch_update])
def test_empty_items_are_refused_by_their_number(decode: object) -> None:
    assert callable(decode)
    with pytest.raises(RequestTooLarge):
        decode(b"\x12\x00" * (MIB // 2))


def test_whole_lists_of_digests_are_few_enough_fields_for_their_size() -> None:
    many = reapi.FindMissingBlobsRequest(
        blob_digests=[reapi.Digest(hash=DIGEST.hash)] * 100_000, instance_name="i"
    )
    assert len(decode_find_missing(many.SerializeToString()).digests) == 100_000
    batch = reapi.BatchReadBlobsRequest(digests=[DIGEST] * BATCH_ITEMS_MAX)
    assert len(decode_batch_read(batch.SerializeToString()).items) == BATCH_ITEMS_MAX
    batch.digests.extend([DIGEST] * 200)
    with pytest.raises(RequestTooLarge):
        decode_batch_read(batch.SerializeToString())


def test_few_malformed_digests_are_their_items_errors_and_many_that_of_the_batch() -> None:
    wrong = reapi.Digest(hash="X" * 64, size_bytes=1)
    few = reapi.BatchReadBlobsRequest(digests=[wrong] * 1000)
    assert len(decode_batch_read(few.SerializeToString()).items) == 1000
    few.digests.append(wrong)
    with pytest.raises(InvalidRequest, match="more than 1000"):
        decode_batch_read(few.SerializeToString())


@pytest.mark.parametrize("field", [b"\x10\x00", b"\xf8\x07\x00", b"\x52\x00", b"\x83\x01\x84\x01"])
def test_a_part_of_a_blob_has_few_fields(field: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_write_request(field * MIB)
    with pytest.raises(RemoteFailed):
        codec.read_data("far", field * MIB)


def test_a_group_is_not_skipped_field_by_field_for_long() -> None:
    with pytest.raises(InvalidRequest):
        decode_write_request(b"\x83\x01" + b"\x08\x00" * MIB + b"\x84\x01")


def test_a_message_cut_short_is_none() -> None:
    whole = (b"\x12\x7f" + bytes(0x7F)) * 1000
    check_fields(whole)
    for end in (b"\x12\x05", b"\x12", b"\x12\xff", b"\x09\x00"):
        with pytest.raises(InvalidRequest):
            check_fields(whole + end)


def test_pieces_are_the_message() -> None:
    whole = reapi.Directory()
    for at in range(3 * PIECE_FIELDS + 1):
        whole.files.add(name=f"f{at}", digest=DIGEST)
        whole.directories.add(name=f"d{at}", digest=DIGEST)
    merged = reapi.Directory()
    parts = list(pieces(reapi.Directory, whole.SerializeToString()))
    for part in parts:
        assert len(part.files) + len(part.directories) <= PIECE_FIELDS
        merged.MergeFrom(part)
    assert merged == whole
    assert len(subdirectories(whole.SerializeToString(), SHA256)) == 3 * PIECE_FIELDS + 1
    assert list(pieces(reapi.Directory, b"")) == [reapi.Directory()]


def test_what_is_dense_inside_an_item_is_found_too() -> None:
    node = reapi.FileNode(name="f", digest=DIGEST).SerializeToString()
    dense = b"\x32\x80\x80\x04" + b"\x0a\x00" * (2**16 // 2)  # node_properties
    directory = reapi.Directory()
    directory.files.add().ParseFromString(node + dense)
    with pytest.raises(RequestTooLarge):
        list(names_of_structure(Shape.DIRECTORY, directory.SerializeToString(), SHA256))


@pytest.mark.parametrize("shape", list(Shape))
@pytest.mark.parametrize("junk", [b"\x0a\x00", b"\x12\x00", b"\xf8\x01\x00"])
def test_structures_of_nothing_end_early(
    shape: Shape, junk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "STRUCTURE_FIELDS_MAX", 50_000)
    data = junk * 51_000
    with pytest.raises(InvalidRequest):
        assert all(names_of_structure(shape, data, SHA256)) is None


def test_a_dense_action_result_is_refused_when_it_comes() -> None:
    request = reapi.UpdateActionResultRequest(action_digest=DIGEST).SerializeToString()
    result = b"\x12\x00" * MIB
    with pytest.raises(RequestTooLarge):
        read_update(request + b"\x1a\x80\x80\x80\x01" + result)


def test_an_answer_has_no_more_items_than_were_asked_for() -> None:
    item = reapi.BatchReadBlobsResponse.Response(digest=DIGEST)
    two = reapi.BatchReadBlobsResponse(responses=[item, item]).SerializeToString()
    assert len(codec.batch_read_items("far", two, SHA256, 2)) == 2
    with pytest.raises(RemoteFailed, match="2 answers to 1"):
        codec.batch_read_items("far", two, SHA256, 1)
    for read in (codec.batch_read_items, codec.batch_update_items):
        with pytest.raises(RemoteFailed):
            read("far", b"\x0a\x00" * FREE_FIELDS, SHA256, 1)
    with pytest.raises(RemoteFailed):
        codec.missing_in("far", b"\x12\x00" * FREE_FIELDS, [digest_of(b"x")], b"")
    with pytest.raises(RemoteFailed):
        codec.check_result("far", b"\x12\x00" * MIB)
