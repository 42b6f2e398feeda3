"""BuildStream 2 with names on one server and blobs on another, as `type: index` and `storage`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.buildstream import ELEMENTS, Project, User, artifacts, queue, server
from tests.support.process import ARTIFACT_SERVER, Node, serve

pytestmark = pytest.mark.clients


def test_names_and_blobs_on_two_servers(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    args = ["--port", "0", "--enable-push", "--index-only", str(tmp_path / "names")]
    with (
        Node(tmp_path / "names", args=args, program=ARTIFACT_SERVER, name="names").start() as names,
        serve(tmp_path / "blobs", name="blobs") as blobs,
    ):
        address = f"localhost:{names.address.rpartition(':')[2]}"
        servers = [
            {**server(address), "type": "index"},
            {**server(blobs.address), "type": "storage"},
        ]
        alice = User(tmp_path / "alice", project, **artifacts(*servers))
        assert queue(alice.bst("build", "app.bst"), "Push") == (ELEMENTS, 0, 0)
        project.forget_origin()
        bob = User(tmp_path / "bob", project, **artifacts(*servers))
        assert queue(bob.bst("build", "app.bst"), "Build")[0] == 0
        assert bob.checkout("app.bst") == alice.checkout("app.bst")
