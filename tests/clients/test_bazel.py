"""Bazel with this node as its remote cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.bazel import (
    ACTIONS,
    BIG_BYTES,
    Builder,
    executed,
    hits,
    write_workspace,
)
from tests.clients.tools import Counted, tree
from tests.support.process import Node

pytestmark = pytest.mark.clients


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return write_workspace(tmp_path / "workspace")


@pytest.mark.parametrize("instance", ["", "team/a"])
def test_a_fresh_output_base_is_all_remote_hits(
    tmp_path: Path, workspace: Path, node: Node, instance: str
) -> None:
    name = f"--remote_instance_name={instance}"
    pushed = Counted(node)
    first = Builder(tmp_path / "first", workspace, node.address, name)
    built = first.build()
    assert (hits(built), executed(built)) == (0, ACTIONS)
    assert pushed.calls("UpdateActionResult") == ACTIONS
    assert pushed.calls("GetActionResult", "NOT_FOUND") == ACTIONS

    pulled = Counted(node)
    second = Builder(tmp_path / "second", workspace, node.address, name)
    again = second.build()
    assert (hits(again), executed(again)) == (ACTIONS, 0)
    assert "said by upper" in again
    assert pulled.calls("GetActionResult") == ACTIONS
    assert pulled.hits("action_result") == ACTIONS
    assert pulled.calls("UpdateActionResult") == 0
    assert tree(second.outputs) == tree(first.outputs)
    assert (second.outputs / "upper.txt").read_text() == "HELLO\n"
    assert len(list((second.outputs / "many" / "a" / "b").iterdir())) == 60


def test_instances_do_not_share_action_results(tmp_path: Path, workspace: Path, node: Node) -> None:
    Builder(tmp_path / "first", workspace, node.address, "--remote_instance_name=one").build()
    other = Builder(
        tmp_path / "second", workspace, node.address, "--remote_instance_name=two"
    ).build()
    assert (hits(other), executed(other)) == (0, ACTIONS)


def test_without_the_bytes_a_hit_costs_only_what_bazel_looks_into(
    tmp_path: Path, workspace: Path, node: Node
) -> None:
    Builder(tmp_path / "first", workspace, node.address).build()
    counted = Counted(node)
    minimal = Builder(tmp_path / "second", workspace, node.address, "--remote_download_minimal")
    result = minimal.build()
    assert (hits(result), executed(result)) == (ACTIONS, 0)
    assert counted.hits("action_result") == ACTIONS
    assert counted.calls("Read") == 2  # the Tree of the folder, and the one stdout
    assert counted.bytes_out() < BIG_BYTES


def test_a_lost_output_is_made_and_uploaded_again(
    tmp_path: Path, workspace: Path, node: Node
) -> None:
    Builder(tmp_path / "first", workspace, node.address).build()
    for path in (node.data_dir / "blobs").rglob(f"*-{BIG_BYTES}"):
        path.unlink()
    counted = Counted(node)
    second = Builder(tmp_path / "second", workspace, node.address)
    result = second.build()
    assert (hits(result), executed(result)) == (ACTIONS - 1, 1)
    assert counted.bytes_in() >= BIG_BYTES
    third = Builder(tmp_path / "third", workspace, node.address)
    assert hits(third.build()) == ACTIONS
    assert tree(third.outputs) == tree(second.outputs)


def test_a_listener_without_push_serves_a_builder_that_does_not_upload(
    tmp_path: Path, workspace: Path, node: Node
) -> None:
    Builder(tmp_path / "first", workspace, node.address).build()
    reading = (f"--remote_cache=grpc://{node.addresses[1]}", "--remote_upload_local_results=false")
    (workspace / "in.txt").write_text("changed\n")
    counted = Counted(node)
    result = Builder(tmp_path / "second", workspace, node.address, *reading).build()
    assert hits(result) == ACTIONS - 2  # upper and big read what has changed
    assert counted.bytes_in() == 0
    uploading = Builder(tmp_path / "third", workspace, node.address, reading[0])
    assert "not authorized to write local results" in uploading.build(code=34)
