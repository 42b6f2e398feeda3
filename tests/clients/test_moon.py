"""moon with this node as its remote cache, over gRPC."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.moon import BIG_BYTES, Workspace
from tests.clients.tools import Counted, tree
from tests.support.process import Node

pytestmark = pytest.mark.clients


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("instance", ["moon-outputs", "", "team/a"])
def test_a_run_after_losing_everything_is_a_remote_hit(
    workspace: Workspace, node: Node, compression: str, instance: str
) -> None:
    workspace.use(node, compression=compression, instanceName=instance)
    pushed = Counted(node)
    made = workspace.make()
    assert "WARN" not in made
    assert "said by make" in made
    assert pushed.calls("GetActionResult", "NOT_FOUND") == 1
    assert pushed.calls("UpdateActionResult") == 1
    before = tree(workspace.out)
    assert before["run"] == ("program", b"#!/bin/sh\necho hi\n")

    workspace.forget()
    pulled = Counted(node)
    again = workspace.make()
    assert "WARN" not in again
    assert "cached from remote" in again
    assert pulled.hits("action_result") == 1
    assert pulled.calls("UpdateActionResult") == 0
    assert pulled.bytes_in() == 0
    assert tree(workspace.out) == before


def test_a_lost_output_runs_the_task_again_and_repairs_the_node(
    workspace: Workspace, node: Node
) -> None:
    workspace.use(node, compression="none")
    workspace.make()
    for path in (node.data_dir / "blobs").rglob(f"*-{BIG_BYTES}"):
        path.unlink()
    workspace.forget()
    repaired = Counted(node)
    assert "cached from remote" not in workspace.make()
    assert repaired.bytes_in() >= BIG_BYTES
    workspace.forget()
    assert "cached from remote" in workspace.make()
    assert (workspace.out / "big").stat().st_size == BIG_BYTES


def test_a_listener_without_push_is_read_and_not_written(workspace: Workspace, node: Node) -> None:
    workspace.use(node, address=1, compression="none")
    refused = Counted(node)
    assert "said by make" in workspace.make()
    assert refused.bytes_in() == 0
    assert refused.calls("UpdateActionResult") == 0
