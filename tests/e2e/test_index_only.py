"""A listener without blobs: names are served whatever is here of what they name, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.buildstream.v2 import buildstream_pb2 as references
from federation._proto.buildstream.v2.buildstream_pb2_grpc import ReferenceStorageStub
from federation.core.digest import Digest, digest_of
from tests.support.process import ARTIFACT_SERVER, Node, serve
from tests.support.process_client import Client, action_result, outcome
from tests.support.process_client import message as digest_message

ALL, INDEX = 0, 1
ABSENT = digest_of(b"a blob that another server has")
ACTION = digest_of(b"action")
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    listeners = [
        {"address": "127.0.0.1:0", "push": True},
        {"address": "127.0.0.1:0", "push": True, "type": "index"},
    ]
    with serve(tmp_path / "data", {"listeners": listeners}) as node:
        yield node


def _references(client: Client) -> ReferenceStorageStub:
    return ReferenceStorageStub(client.channel)


def push_all(client: Client, digest: Digest) -> None:
    client.push_blob("urn:x", digest)
    client.update_action_result(ACTION, action_result([("out", digest)]))
    update = references.UpdateReferenceRequest(keys=["p/e/k"], digest=digest_message(digest))
    _references(client).UpdateReference(update, timeout=60)


def reference(client: Client) -> grpc.StatusCode:
    ask = references.GetReferenceRequest(key="p/e/k")
    return outcome(lambda: _references(client).GetReference(ask, timeout=60))


def test_entries_are_served_without_what_they_name(node: Node) -> None:
    with Client(node.addresses[INDEX]) as client:
        push_all(client, ABSENT)
        assert client.fetch_blob("urn:x") == ABSENT
        result = client.get_action_result(ACTION)
        assert result is not None
        assert result.output_files[0].digest == digest_message(ABSENT)
        assert reference(client) is grpc.StatusCode.OK


def test_a_listener_with_blobs_still_serves_whole_entries_only(node: Node) -> None:
    with Client(node.addresses[INDEX]) as client:
        push_all(client, ABSENT)
    with Client(node.addresses[ALL]) as client:
        assert client.fetch_blob("urn:x") is None
        assert client.get_action_result(ACTION) is None
        assert reference(client) is grpc.StatusCode.NOT_FOUND
        client.write(b"a blob that another server has")
        assert client.fetch_blob("urn:x") == ABSENT


def test_there_is_no_service_for_blobs(node: Node) -> None:
    with Client(node.addresses[INDEX]) as client:
        assert outcome(lambda: client.find_missing([ABSENT])) is UNIMPLEMENTED
        assert outcome(lambda: client.batch_update([b"x"])) is UNIMPLEMENTED
        assert outcome(lambda: client.write(b"x")) is UNIMPLEMENTED
        assert outcome(lambda: client.read(ABSENT)) is UNIMPLEMENTED
        assert client.capabilities().cache_capabilities.digest_functions


def test_outputs_that_could_be_put_into_a_result_are_left_out(node: Node) -> None:
    with Client(node.addresses[INDEX]) as client:
        result = action_result([("out", ABSENT)])
        result.stdout_digest.CopyFrom(digest_message(ABSENT))
        client.update_action_result(ACTION, result)
        request = reapi.GetActionResultRequest(
            action_digest=digest_message(ACTION), inline_stdout=True, inline_output_files=["out"]
        )
        assert not client.actions.GetActionResult(request, timeout=60).stdout_raw


def test_names_are_pulled_from_an_index_without_its_blobs(node: Node, tmp_path: Path) -> None:
    with Client(node.addresses[INDEX]) as client:
        push_all(client, ABSENT)
    upstream = {"name": "names", "url": f"grpc://{node.addresses[INDEX]}", "type": "index"}
    listeners = [{"address": "127.0.0.1:0", "type": "index"}]
    settings = {"listeners": listeners, "upstreams": [upstream]}
    with serve(tmp_path / "mirror", settings, name="mirror") as mirror:
        with Client(mirror.address) as client:
            assert client.fetch_blob("urn:x") == ABSENT
            assert client.get_action_result(ACTION) is not None
        node.kill()
        with Client(mirror.address) as client:
            assert client.fetch_blob("urn:x") == ABSENT, "what was pulled is kept"


def test_the_old_flag_does_the_same(tmp_path: Path) -> None:
    args = ["--port", "0", "--enable-push", "--index-only", str(tmp_path / "data")]
    with (
        Node(tmp_path / "data", args=args, program=ARTIFACT_SERVER).start() as node,
        Client(f"localhost:{node.address.rpartition(':')[2]}") as client,
    ):
        push_all(client, ABSENT)
        assert client.fetch_blob("urn:x") == ABSENT
        assert outcome(lambda: client.find_missing([ABSENT])) is UNIMPLEMENTED
