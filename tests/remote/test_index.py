"""Names at a remote: a miss is a miss, a failure is none, and what was sent is what is returned."""

from __future__ import annotations

import grpc
import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import DigestFunction, digest_of
from federation.remote.failures import FailureKind, RemoteFailed, RequestRefused, Unsupported
from federation.wire.protobuf import length_field
from tests.remote import fake_server
from tests.remote.fake_server import FakeServer, fails
from tests.remote.served import Here, connected
from tests.support.messages import message_of

ACTION = digest_of(b"action")
BLOB = digest_of(b"blob")
URI = "urn:fdc:buildstream.build:2020:artifact:project/element/key"


async def test_an_action_result_is_returned_as_it_was_sent(fake: FakeServer, here: Here) -> None:
    assert await here.index.get_action_result(ACTION) is None
    value = reapi.ActionResult(exit_code=3).SerializeToString() + length_field(9999, b"unknown")
    fake.does["GetActionResult"] = fake_server.answers(value)
    assert await here.index.get_action_result(ACTION) == value


async def test_an_action_result_is_stored_with_all_it_says(fake: FakeServer, here: Here) -> None:
    value = reapi.ActionResult(exit_code=3).SerializeToString() + length_field(9999, b"unknown")
    await here.index.update_action_result(ACTION, value)
    assert fake.results[ACTION.hash_hex] == value


async def test_instances_are_the_remote_s_own_unless_said_otherwise(fake: FakeServer) -> None:
    async with connected(fake.address, instance_name="main") as here:
        await here.index.get_action_result(ACTION)
        await here.index.get_action_result(ACTION, "other/one")
        await here.store.find_missing([BLOB])
    first, second = fake.calls("GetActionResult")
    read = reapi.GetActionResultRequest.FromString
    assert read(first.request).instance_name == "main"
    assert read(second.request).instance_name == "other/one"
    (find,) = fake.calls("FindMissingBlobs")
    assert reapi.FindMissingBlobsRequest.FromString(find.request).instance_name == "main"
    (asked,) = fake.calls("GetCapabilities")
    assert reapi.GetCapabilitiesRequest.FromString(asked.request).instance_name == "main"


async def test_a_fetch_says_all_that_is_asked(fake: FakeServer, here: Here) -> None:
    await here.index.fetch_blob(
        ["one", "two"], {"vcs.commit": "abc"}, DigestFunction.BLAKE3, 1_700_000_000.25
    )
    (call,) = fake.calls("FetchBlob")
    request = asset.FetchBlobRequest.FromString(call.request)
    assert list(request.uris) == ["one", "two"]
    assert [(q.name, q.value) for q in request.qualifiers] == [("vcs.commit", "abc")]
    assert request.digest_function == reapi.DigestFunction.BLAKE3
    assert request.oldest_content_accepted.ToNanoseconds() == 1_700_000_000_250_000_000


async def test_a_fetched_asset_has_all_that_was_answered(fake: FakeServer, here: Here) -> None:
    answer = asset.FetchBlobResponse(uri="two", blob_digest=message_of(BLOB))
    answer.qualifiers.add(name="vcs.commit", value="abc")
    answer.expires_at.FromSeconds(1_900_000_000)
    fake.does["FetchBlob"] = fake_server.answers(answer.SerializeToString())
    found = await here.index.fetch_blob(["one", "two"])
    assert found is not None
    assert (found.uri, found.digest, found.expires_at_s) == ("two", BLOB, 1_900_000_000.0)
    assert found.qualifiers == {"vcs.commit": "abc"}


async def test_a_directory_is_found(fake: FakeServer, here: Here) -> None:
    fake.directories[URI] = message_of(BLOB)
    found = await here.index.fetch_directory([URI])
    assert found is not None
    assert (found.uri, found.digest, found.expires_at_s) == (URI, BLOB, None)
    assert await here.index.fetch_directory(["other"]) is None


async def test_a_miss_inside_an_ok_is_a_miss(fake: FakeServer, here: Here) -> None:
    answer = asset.FetchBlobResponse()
    answer.status.code = grpc.StatusCode.NOT_FOUND.value[0]
    fake.does["FetchBlob"] = fake_server.answers(answer.SerializeToString())
    assert await here.index.fetch_blob([URI]) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (asset.FetchBlobResponse(status={"code": 14}), FailureKind.UNAVAILABLE),
        (asset.FetchBlobResponse(status={"code": 99}), FailureKind.INTERNAL),
        (asset.FetchBlobResponse(uri=URI), FailureKind.MALFORMED),
        (asset.FetchBlobResponse(uri=URI, blob_digest={"hash": "x"}), FailureKind.MALFORMED),
        (
            asset.FetchBlobResponse(blob_digest=message_of(BLOB), digest_function="MD5"),
            FailureKind.MALFORMED,
        ),
        (
            asset.FetchBlobResponse(blob_digest=message_of(BLOB), expires_at={"nanos": -1}),
            FailureKind.MALFORMED,
        ),
    ],
)
async def test_an_answer_that_makes_no_sense_is_no_miss(
    fake: FakeServer, here: Here, answer: asset.FetchBlobResponse, kind: FailureKind
) -> None:
    fake.does["FetchBlob"] = fake_server.answers(answer.SerializeToString())
    with pytest.raises(RemoteFailed) as caught:
        await here.index.fetch_blob([URI])
    assert caught.value.kind is kind


async def test_a_push_says_all_that_it_is_given(fake: FakeServer) -> None:
    references = [message_of(digest_of(bytes([n]))) for n in range(4)]
    blob = asset.PushBlobRequest(
        uris=[URI, "weak"],
        blob_digest=message_of(BLOB),
        references_blobs=references[:2],
        references_directories=references[2:],
        digest_function="SHA256",
    )
    blob.qualifiers.add(name="vcs.commit", value="abc")
    blob.expire_at.FromSeconds(1_900_000_000)
    directory = asset.PushDirectoryRequest(
        uris=[URI], root_directory_digest=message_of(BLOB), references_blobs=references
    )
    async with connected(fake.address, instance_name="main") as here:
        await here.index.push_blob(blob)
        await here.index.push_directory(directory, "other")
    assert not blob.instance_name  # what was given is not changed
    blob.instance_name, directory.instance_name = "main", "other"
    assert fake.pushed == [blob, directory]


async def test_references_are_found_and_updated(here: Here) -> None:
    assert await here.index.get_reference("key") is None
    await here.index.update_reference(["key", "other"], BLOB)
    assert await here.index.get_reference("key") == BLOB
    assert await here.index.get_reference("other") == BLOB


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED])
async def test_silence_is_no_miss(fake: FakeServer, here: Here, code: grpc.StatusCode) -> None:
    for method in ("GetActionResult", "FetchBlob", "FetchDirectory", "GetReference"):
        fake.does[method] = fails(code)
    for asking in (
        here.index.get_action_result(ACTION),
        here.index.fetch_blob([URI]),
        here.index.fetch_directory([URI]),
        here.index.get_reference("key"),
    ):
        with pytest.raises(RemoteFailed):
            await asking


async def test_a_service_that_is_not_there_is_a_miss_and_takes_no_pushes(
    fake: FakeServer, here: Here
) -> None:
    for method in fake_server.SERVICES:
        fake.does[method] = fails(grpc.StatusCode.UNIMPLEMENTED)
    for _ in range(2):
        assert await here.index.get_action_result(ACTION) is None
        assert await here.index.fetch_blob([URI]) is None
        assert await here.index.fetch_directory([URI]) is None
        assert await here.index.get_reference("key") is None
        for telling in (
            here.index.update_action_result(ACTION, b""),
            here.index.push_blob(asset.PushBlobRequest()),
            here.index.push_directory(asset.PushDirectoryRequest()),
            here.index.update_reference(["key"], BLOB),
        ):
            with pytest.raises(Unsupported):
                await telling
    # Twice is not enough to take a service for missing: see test_calls.py.
    assert len(fake.calls("FetchBlob")) == len(fake.calls("PushBlob")) == 2


async def test_not_found_for_a_push_is_a_refusal(fake: FakeServer, here: Here) -> None:
    fake.does["PushBlob"] = fails(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(RequestRefused):
        await here.index.push_blob(asset.PushBlobRequest(uris=[URI]))
