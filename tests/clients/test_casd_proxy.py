"""buildbox-casd as a proxy of this node: what one casd takes in, another gives out."""

from __future__ import annotations

import random
from pathlib import Path

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import digest_of
from tests.clients.casd import casd
from tests.clients.tools import Counted
from tests.support.process import Node
from tests.support.process_client import Client, action_result, message, outcome

pytestmark = pytest.mark.clients

URI = "urn:fdc:example:2020:thing"
_BITS = random.Random(3)
SMALL = [_BITS.randbytes(1000) for _ in range(1500)]
LARGE = _BITS.randbytes(9_000_000)


def proxied(node: Node, remote_instance: str = "") -> tuple[str, ...]:
    """Return the options that make a casd a proxy of everything that the node serves."""
    url = f"http://{node.address}"
    return (
        f"--cas-remote={url}",
        f"--ac-remote={url}",
        f"--ra-remote={url}",
        f"--cas-instance={remote_instance}",
        f"--ac-instance={remote_instance}",
        f"--ra-instance={remote_instance}",
    )


@pytest.mark.parametrize("instance", ["", "team/a"])
def test_what_one_casd_took_in_a_fresh_one_gives_out(
    tmp_path: Path, node: Node, instance: str
) -> None:
    options = proxied(node, instance)
    counted = Counted(node)
    with casd(tmp_path / "one", *options) as one:
        assert set(one.batch_update(SMALL)) == {grpc.StatusCode.OK}
        assert one.write(LARGE) == len(LARGE)
    assert counted.bytes_in() >= len(LARGE) + 1000 * len(SMALL)
    assert counted.calls("BatchUpdateBlobs") >= 1
    assert counted.calls("Write") >= 1

    wanted = [digest_of(data) for data in SMALL]
    with Client(node.address, instance) as direct:
        assert direct.find_missing([*wanted, digest_of(LARGE)]) == set()
    with casd(tmp_path / "two", *options) as two:
        assert two.find_missing([*wanted, digest_of(LARGE)]) == set()
        assert two.batch_read(wanted) == dict(zip(wanted, SMALL, strict=True))
        assert two.read(digest_of(LARGE)) == LARGE
        assert two.read(digest_of(LARGE), offset=8_999_990) == LARGE[8_999_990:]
    assert counted.calls("FindMissingBlobs") >= 2  # the direct one, and what casd asked
    assert counted.calls("BatchReadBlobs") >= 1
    assert counted.bytes_out() >= len(LARGE) + 1000 * len(SMALL)


def test_what_the_node_lacks_is_missing_through_casd(tmp_path: Path, node: Node) -> None:
    absent = digest_of(b"never sent")
    with casd(tmp_path / "one", *proxied(node)) as one:
        assert one.find_missing([absent, digest_of(b"")]) == {absent}
        assert outcome(lambda: one.read(absent)) is grpc.StatusCode.NOT_FOUND
        assert one.batch_read([absent]) == {}


def test_action_results_and_assets_pass_through(tmp_path: Path, node: Node) -> None:
    output, action = digest_of(LARGE), digest_of(b"an action that nobody uploads")
    result = action_result([("out", output)], exit_code=3)
    with casd(tmp_path / "one", *proxied(node)) as one:
        assert one.get_action_result(action) is None
        assert one.fetch_blob(URI) is None
        one.write(LARGE)
        one.update_action_result(action, result)
        one.push_blob(URI, output)
    with casd(tmp_path / "two", *proxied(node)) as two:
        found = two.get_action_result(action)
        assert found is not None
        assert list(found.output_files) == list(result.output_files)
        assert found.exit_code == 3
        assert two.fetch_blob(URI) == output


def test_a_tree_is_fetched_level_by_level(tmp_path: Path, node: Node) -> None:
    leaf = reapi.Directory()
    leaf.files.add(name="file", digest=message(digest_of(LARGE)))
    root = reapi.Directory()
    root.directories.add(name="sub", digest=message(digest_of(leaf.SerializeToString())))
    directories = [leaf.SerializeToString(), root.SerializeToString()]
    with casd(tmp_path / "one", *proxied(node)) as one:
        one.batch_update(directories)
        one.write(LARGE)
    with casd(tmp_path / "two", *proxied(node)) as two:
        request = reapi.GetTreeRequest(root_digest=message(digest_of(directories[1])))
        pages = list(two.cas.GetTree(request, timeout=60))
    assert sorted(d.SerializeToString() for page in pages for d in page.directories) == sorted(
        directories
    )
