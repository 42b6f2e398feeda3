"""BuildStream 2 and a node that has lost a blob of an artifact."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.clients.buildstream import ELEMENTS, Project, User, artifacts, queue, server
from tests.clients.tools import Counted, tree
from tests.support.process import Node

pytestmark = pytest.mark.clients


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def lose(node: Node, content: bytes) -> None:
    """Remove the file of a blob behind the node's back."""
    name = f"{hashlib.sha256(content).hexdigest()}-{len(content)}"
    files = list((node.data_dir / "blobs").rglob(name))
    assert len(files) == 1, f"one file {name} expected, found {files}"
    files[0].unlink()


def test_an_artifact_that_lost_a_blob_is_a_miss_and_a_push_repairs_it(
    tmp_path: Path, project: Project, node: Node
) -> None:
    alice = User(tmp_path / "alice", project, **artifacts(server(node.address)))
    alice.bst("build", "text.bst")
    lose(node, (project.text / "big").read_bytes())

    bob = User(tmp_path / "bob", project, **artifacts(server(node.address, push=False)))
    missed = bob.bst("build", "text.bst")  # a miss, not a failure: bob builds it himself
    assert queue(missed, "Build") == (1, 0, 0)
    assert queue(missed, "Pull") == (0, 1, 0)

    hidden = Counted(node)
    again = User(tmp_path / "again", project, **artifacts(server(node.address, push=False)))
    assert queue(again.bst("build", "text.bst"), "Pull") == (0, 1, 0)
    assert hidden.hits("asset") == 0  # by now the node knows, and does not even offer it

    repaired = Counted(node)
    alice.bst("artifact", "push", "text.bst")
    assert repaired.bytes_in() >= len((project.text / "big").read_bytes())

    carol = User(tmp_path / "carol", project, **artifacts(server(node.address, push=False)))
    pulled = carol.bst("build", "text.bst")
    assert queue(pulled, "Build")[0] == 0
    assert queue(pulled, "Pull") == (1, 0, 0)
    assert carol.checkout("text.bst") == tree(project.text)


def test_a_builder_that_may_push_repairs_the_node_by_building(
    tmp_path: Path, project: Project, node: Node
) -> None:
    push = artifacts(server(node.address))
    User(tmp_path / "alice", project, **push).bst("build", "app.bst")
    lose(node, (project.text / "big").read_bytes())
    bob = User(tmp_path / "bob", project, **push)
    queue(bob.bst("build", "--deps", "all", "app.bst"), "Build")
    carol = User(tmp_path / "carol", project, **artifacts(server(node.address, push=False)))
    pulled = carol.bst("artifact", "pull", "--deps", "all", "app.bst")
    assert queue(pulled, "Pull") == (ELEMENTS, 0, 0)
    assert carol.checkout("text.bst") == tree(project.text)


def test_a_restarted_node_has_everything_that_was_pushed(
    tmp_path: Path, project: Project, node: Node
) -> None:
    User(tmp_path / "alice", project, **artifacts(server(node.address))).bst("build", "app.bst")
    node.kill()
    node.start()
    bob = User(tmp_path / "bob", project, **artifacts(server(node.address, push=False)))
    pulled = bob.bst("artifact", "pull", "--deps", "all", "app.bst")
    assert queue(pulled, "Pull") == (ELEMENTS, 0, 0)
    assert bob.checkout("text.bst") == tree(project.text)
