"""BuildStream 2 with this node as its source cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.buildstream import BIG_BYTES, ELEMENTS, Project, User, queue, server, sources
from tests.clients.tools import Counted, tree
from tests.support.process import Node

pytestmark = pytest.mark.clients

ARCHIVES = 2
ALL = ("--deps", "all", "app.bst")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.mark.parametrize("instance", ["", "team/a"])
def test_sources_come_from_the_node_when_their_origin_is_gone(
    tmp_path: Path, project: Project, node: Node, instance: str
) -> None:
    pushed = Counted(node)
    alice = User(tmp_path / "alice", project, **sources(server(node.address, instance=instance)))
    # The elements without sources share one key, which is pushed by several jobs at a time.
    done, skipped, failed = queue(alice.bst("source", "push", *ALL), "Src-push")
    assert (done + skipped, failed) == (ELEMENTS, 0)
    assert done > ARCHIVES
    assert pushed.calls("PushDirectory") == ARCHIVES
    assert pushed.calls("PushBlob") == done
    assert pushed.bytes_in() >= BIG_BYTES
    project.forget_origin()

    stranger = User(tmp_path / "stranger", project)
    assert "FAILURE" in stranger.bst("source", "fetch", *ALL, code=255)

    fetched = Counted(node)
    bob = User(
        tmp_path / "bob", project, **sources(server(node.address, push=False, instance=instance))
    )
    assert queue(bob.bst("source", "fetch", *ALL), "Fetch")[2] == 0
    assert fetched.hits("asset") >= ARCHIVES
    assert fetched.bytes_out() >= BIG_BYTES
    assert bob.checkout("text.bst", "source") == tree(project.text)
    assert bob.checkout("root.bst", "source") == tree(project.binaries)
    assert queue(bob.bst("build", "app.bst"), "Build") == (ELEMENTS, 0, 0)


def test_pushing_sources_again_sends_nothing(tmp_path: Path, project: Project, node: Node) -> None:
    alice = User(tmp_path / "alice", project, **sources(server(node.address)))
    alice.bst("source", "push", *ALL)
    again = Counted(node)
    assert queue(alice.bst("source", "push", *ALL), "Src-push") == (0, ELEMENTS, 0)
    assert again.calls("PushBlob") + again.calls("PushDirectory") == 0
    assert again.bytes_in() == 0
