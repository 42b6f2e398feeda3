"""Writes that cost more of the disk than their bytes say: the quota is what `du` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.digest import Digest, digest_of
from tests.attacks.harness import HITS, MIB, Attacked
from tests.support.polling import wait_until
from tests.support.process_client import Client, message, outcome

QUOTA = 32 * MIB
SETTINGS = {"storage": {"quota": QUOTA, "reserve": 0}}
REFUSED = "federation_refused_for_room_total"


def du(root: Path) -> int:
    """What `du` says of a folder."""
    found = os.lstat(root).st_blocks
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            try:
                found += os.lstat(f"{folder}/{name}").st_blocks
            except FileNotFoundError:
                continue
    return found * 512


def write(client: Client, data: bytes) -> Digest:
    client.write(data)
    return digest_of(data)


def push_until_refused(requests: Iterator[asset.PushBlobRequest], client: Client) -> int:
    """Return how many went through."""
    for count, request in enumerate(requests):
        code = outcome(lambda request=request: client.push.PushBlob(request))  # type: ignore[misc]
        if code is not grpc.StatusCode.OK:
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            return count
    raise AssertionError("nothing was refused")


def check_disk(node: Attacked) -> None:
    data = node.node.data_dir
    taken = du(data)
    assert QUOTA * 0.9 <= taken <= QUOTA * 1.1, f"{taken} bytes for a quota of {QUOTA}"
    assert node.node.metrics().value("federation_evicted_total") == 0
    assert node.node.metrics().value(REFUSED) >= 1
    wait_until(lambda: "write_refused_for_room" in node.node.log, "a line about it in the log")


def test_names_count_against_the_quota(tmp_path: Path) -> None:
    """Thousands of small entries, with long names of instances: nothing honest goes for them."""
    with Attacked(tmp_path, open_to_all=True, settings=SETTINGS) as node, node.client() as client:
        honest = write(client, os.urandom(3 * MIB))
        blob = write(client, b"named")

        def requests() -> Iterator[asset.PushBlobRequest]:
            for call in range(2000):
                yield asset.PushBlobRequest(
                    instance_name=f"{call % 300}".ljust(250, "x"),
                    uris=[f"{call}-{at}" for at in range(1000)],
                    blob_digest=message(blob),
                )

        assert push_until_refused(requests(), client) > 5
        check_disk(node)
        assert len(client.read(honest)) == 3 * MIB


@pytest.mark.parametrize("size", [2048, 4100])
def test_blobs_count_with_the_pages_they_take(tmp_path: Path, size: int) -> None:
    with Attacked(tmp_path, open_to_all=True, settings=SETTINGS) as node, node.client() as client:
        honest = write(client, os.urandom(3 * MIB))
        refused = 0
        while not refused:
            blobs = [os.urandom(size) for _ in range(500)]
            codes = client.batch_update(blobs)
            refused = sum(code is not grpc.StatusCode.OK for code in codes)
        check_disk(node)
        assert len(client.read(honest)) == 3 * MIB


def test_files_count_in_blocks(tmp_path: Path) -> None:
    settings = {"storage": {**SETTINGS["storage"], "inline-max": 0}}
    with Attacked(tmp_path, open_to_all=True, settings=settings) as node, node.client() as client:
        refused = 0
        while not refused:
            codes = client.batch_update([os.urandom(300) for _ in range(500)])
            refused = sum(code is not grpc.StatusCode.OK for code in codes)
        check_disk(node)


def test_an_instance_s_name_has_a_sane_length(tmp_path: Path) -> None:
    with Attacked(tmp_path, open_to_all=True) as node, node.client() as client:
        blob = write(client, b"named")
        for name, fits in (("x" * 255, True), ("x" * 256, False), ("é" * 128, False)):
            request = asset.PushBlobRequest(
                instance_name=name, uris=["uri"], blob_digest=message(blob)
            )
            code = outcome(lambda request=request: client.push.PushBlob(request))  # type: ignore[misc]
            wanted = grpc.StatusCode.OK if fits else grpc.StatusCode.INVALID_ARGUMENT
            assert code is wanted
        node.check_limit_hit("instance.name-bytes")


def test_one_caller_names_so_many_instances(tmp_path: Path) -> None:
    limits = {"instances-per-caller": 5}
    with Attacked(tmp_path, limits=limits) as node:
        with node.client(node.attacker_token) as attacker:
            digest = write(attacker, b"named")
            codes = []
            for number in range(7):
                request = asset.PushBlobRequest(
                    instance_name=f"i{number}", uris=["uri"], blob_digest=message(digest)
                )
                codes.append(outcome(lambda request=request: attacker.push.PushBlob(request)))  # type: ignore[misc]
            assert codes == [grpc.StatusCode.OK] * 5 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
        assert node.node.metrics().value(HITS, limit="instances-per-caller") == 2
        node.check_limit_hit("instances-per-caller")
        with node.client() as honest:
            honest.push_blob("uri", digest_of(b"named"))
