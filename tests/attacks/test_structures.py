"""Small uploads that are huge structures once they are unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import Digest, digest_of
from federation.wire import zstd
from tests.attacks.harness import MIB, Attacked
from tests.attacks.raw_calls import ACTIONS, ASSET, call_raw, kept_up
from tests.support.process_client import Client, message

SIZE = 64 * MIB
FETCH = f"{ASSET}.Fetch/FetchDirectory"
PUSH = f"{ASSET}.Push/PushDirectory"
GET = f"{ACTIONS}/GetActionResult"


def push_packed(client: Client, data: bytes) -> Digest:
    """Upload a blob as zstd."""
    digest = digest_of(data)
    packed = zstd.encode(data)
    assert len(packed) < 64 * 1024
    name = f"uploads/u/compressed-blobs/zstd/{digest.hash_hex}/{digest.size_bytes}"
    client.bytestream.Write(
        iter([bs.WriteRequest(resource_name=name, data=packed, finish_write=True)]), timeout=60
    )
    return digest


@pytest.mark.parametrize("node_bytes", [b"\x0a\x00", b"\x12\x00", b"\x1a\x00", b"\xf8\x01\x00"])
def test_a_directory_of_nothing_costs_once_and_little(tmp_path: Path, node_bytes: bytes) -> None:
    junk = node_bytes * (SIZE // len(node_bytes))
    with Attacked(tmp_path) as node, node.client(node.attacker_token) as attacker:
        root = push_packed(attacker, junk)
        for at in range(20):
            pushed = asset.PushDirectoryRequest(
                uris=[f"urn:junk:{at}"], root_directory_digest=message(root)
            )
            assert (
                call_raw(attacker, f"{ASSET}.Push/PushDirectory", pushed.SerializeToString())
                == "OK"
            )
        with node.watched(128) as seen:
            wanted = asset.FetchDirectoryRequest(uris=["urn:junk:0"]).SerializeToString()
            assert call_raw(attacker, FETCH, wanted) == "NOT_FOUND"
            before_s = node.node.cpu_s()
            for at in range(20):
                again = asset.FetchDirectoryRequest(uris=[f"urn:junk:{at}"]).SerializeToString()
                assert call_raw(attacker, FETCH, again) == "NOT_FOUND"
            assert node.node.cpu_s() - before_s < 1.0, "a malformed structure is read again"
            with kept_up(lambda: call_raw(attacker, FETCH, wanted), threads=2):
                seen.judge()
        node.check_limit_hit("closure.malformed")


def test_a_tree_of_empty_directories_costs_once_and_little(tmp_path: Path) -> None:
    junk = b"\x0a\x00" + b"\x12\x00" * (SIZE // 2 - 1)
    with Attacked(tmp_path) as node, node.client(node.attacker_token) as attacker:
        tree = push_packed(attacker, junk)
        result = reapi.ActionResult(
            output_directories=[reapi.OutputDirectory(path="d", tree_digest=message(tree))]
        )
        action = digest_of(b"action")
        attacker.update_action_result(action, result)
        asked = reapi.GetActionResultRequest(action_digest=message(action)).SerializeToString()
        with node.watched(128) as seen:
            assert call_raw(attacker, GET, asked) == "NOT_FOUND"
            with kept_up(lambda: call_raw(attacker, GET, asked), threads=2):
                seen.judge()
