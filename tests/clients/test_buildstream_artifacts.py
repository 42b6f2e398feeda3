"""BuildStream 2 with this node as its artifact cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.buildstream import (
    BIG_BYTES,
    ELEMENTS,
    WIDE_BYTES,
    WIDE_FILES,
    Project,
    User,
    artifacts,
    queue,
    server,
    write_yaml,
)
from tests.clients.tools import Counted, tree
from tests.support.process import Node

pytestmark = pytest.mark.clients

CONTENT_BYTES = BIG_BYTES + WIDE_FILES * WIDE_BYTES
MANY_FILES = 14_000  # the client asks for at most 13,108 blobs at once


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_a_fresh_cache_rebuilds_nothing_and_gets_the_same_bytes(
    tmp_path: Path, project: Project, node: Node
) -> None:
    pushed = Counted(node)
    alice = User(tmp_path / "alice", project, **artifacts(server(node.address)))
    built = alice.bst("build", "app.bst")
    assert queue(built, "Build") == (ELEMENTS, 0, 0)
    assert queue(built, "Push") == (ELEMENTS, 0, 0)
    assert pushed.calls("PushBlob") == ELEMENTS
    assert pushed.bytes_in() >= CONTENT_BYTES

    project.forget_origin()
    pulled = Counted(node)
    bob = User(tmp_path / "bob", project, **artifacts(server(node.address, push=False)))
    rebuilt = bob.bst("build", "app.bst", "upper.bst")
    assert queue(rebuilt, "Build")[0] == 0
    assert queue(rebuilt, "Fetch")[0] == 0
    assert queue(rebuilt, "Pull") == (3, 0, 0)  # app, its runtime dependency all, and upper
    assert pulled.hits("asset") == 3
    assert pulled.bytes_out() >= CONTENT_BYTES
    assert pulled.calls("PushBlob", "INVALID_ARGUMENT") == 0

    app = bob.checkout("app.bst")
    assert app == alice.checkout("app.bst")
    assert app.pop("share/upper.txt") == ("file", b"HELLO\n")
    assert {name: app[name] for name in app if name != "share"} == tree(project.text)


def test_artifact_pull_fetches_everything(tmp_path: Path, project: Project, node: Node) -> None:
    User(tmp_path / "alice", project, **artifacts(server(node.address))).bst("build", "app.bst")
    bob = User(tmp_path / "bob", project, **artifacts(server(node.address)))
    pulled = bob.bst("artifact", "pull", "--deps", "all", "app.bst")
    assert queue(pulled, "Pull") == (ELEMENTS, 0, 0)
    assert bob.checkout("text.bst") == tree(project.text)
    assert bob.checkout("root.bst") == tree(project.binaries)


def test_pushing_again_says_already_there_and_sends_nothing(
    tmp_path: Path, project: Project, node: Node
) -> None:
    alice = User(tmp_path / "alice", project, **artifacts(server(node.address)))
    alice.bst("build", "app.bst")
    again = Counted(node)
    result = alice.bst("artifact", "push", "--deps", "all", "app.bst")
    assert queue(result, "Push") == (0, ELEMENTS, 0)
    assert result.output.count("already has artifact") == ELEMENTS
    assert again.calls("PushBlob") == 0
    assert again.bytes_in() == 0
    assert again.hits("asset") == ELEMENTS


def test_a_weak_key_finds_what_was_built_upon_other_content(
    tmp_path: Path, project: Project, node: Node
) -> None:
    User(tmp_path / "alice", project, **artifacts(server(node.address))).bst("build", "upper.bst")
    (project.text / "hello.txt").write_text("changed\n")
    project.pack("text")
    strict = User(tmp_path / "bob", project, **artifacts(server(node.address, push=False)))
    missed = strict.bst("artifact", "pull", "upper.bst", code=None)
    assert "does not have artifact" in missed
    assert "Pulled artifact" not in missed

    loose = User(tmp_path / "carol", project, **artifacts(server(node.address, push=False)))
    found = Counted(node)
    pulled = loose.bst("--no-strict", "artifact", "pull", "upper.bst")
    assert queue(pulled, "Pull") == (1, 0, 0)
    assert found.calls("FetchBlob", "NOT_FOUND") == 1  # the strict key, before the weak one
    assert found.hits("asset") == 1
    loose.bst("--no-strict", "build", "upper.bst")
    folder = tmp_path / "out"
    loose.bst("--no-strict", "artifact", "checkout", "--directory", str(folder), "upper.bst")
    assert (folder / "share" / "upper.txt").read_text() == "HELLO\n"


def test_an_instance_name_with_a_slash_is_a_name_space_of_its_own(
    tmp_path: Path, project: Project, node: Node
) -> None:
    team = server(node.address, instance="team/a")
    User(tmp_path / "alice", project, **artifacts(team)).bst("build", "app.bst")
    bob = User(tmp_path / "bob", project, **artifacts(team))
    assert queue(bob.bst("build", "app.bst"), "Build")[0] == 0
    assert bob.checkout("text.bst") == tree(project.text)

    others = User(tmp_path / "carol", project, **artifacts(server(node.address)))
    missed = others.bst("artifact", "pull", "--deps", "all", "app.bst", code=None)
    assert queue(missed, "Pull")[0] == 0


def test_a_listener_without_push_serves_readers_and_turns_pushers_away(
    tmp_path: Path, project: Project, node: Node
) -> None:
    reading = node.addresses[1]
    User(tmp_path / "alice", project, **artifacts(server(node.address))).bst("build", "app.bst")

    bob = User(tmp_path / "bob", project, **artifacts(server(reading, push=False)))
    assert queue(bob.bst("build", "app.bst"), "Build")[0] == 0
    assert bob.checkout("text.bst") == tree(project.text)

    refused = Counted(node)
    carol = User(tmp_path / "carol", project, **artifacts(server(reading)))
    built = carol.bst("build", "app.bst")  # a server that is left out does not fail the build
    assert "Failed to initialize remote" in built
    assert queue(built, "Build") == (ELEMENTS, 0, 0)
    assert refused.calls("PushBlob", "PERMISSION_DENIED") == 1
    assert refused.bytes_in() == 0


def test_the_node_can_be_the_whole_storage_of_a_client(
    tmp_path: Path, project: Project, node: Node
) -> None:
    cache = {"cache": {"storage-service": {"url": f"http://{node.address}"}}}
    alice = User(tmp_path / "alice", project, **cache, **artifacts(server(node.address)))
    assert queue(alice.bst("build", "app.bst"), "Build") == (ELEMENTS, 0, 0)
    bob = User(tmp_path / "bob", project, **cache, **artifacts(server(node.address)))
    assert queue(bob.bst("build", "app.bst"), "Build")[0] == 0
    assert bob.checkout("app.bst")["share/upper.txt"] == ("file", b"HELLO\n")


@pytest.mark.timeout(400)  # 14,000 files, in many copies that pytest removes within this, too
def test_an_artifact_of_very_many_files_takes_more_than_one_question(
    tmp_path: Path, project: Project, node: Node
) -> None:
    files = project.root / "files" / "many"
    files.mkdir()
    for number in range(MANY_FILES):
        (files / str(number)).write_text(f"content of {number}\n")
    source = {"kind": "local", "path": "files/many"}
    write_yaml(project.root / "elements" / "many.bst", {"kind": "import", "sources": [source]})
    pushed = Counted(node)
    alice = User(tmp_path / "alice", project, **artifacts(server(node.address)))
    assert queue(alice.bst("build", "many.bst"), "Push") == (1, 0, 0)
    assert pushed.calls("FindMissingBlobs") >= 2
    key = alice.bst("show", "--deps", "none", "--format", "%{full-key}", "many.bst")
    name = f"shop/many/{key.output.split()[-1]}"

    # Bob's project does not have the element, so that none of its files are his already.
    pulled = Counted(node)
    other = Project(tmp_path / "other")
    bob = User(tmp_path / "bob", other, **artifacts(server(node.address, push=False)))
    assert "Pulled artifact" in bob.bst("artifact", "pull", name)
    assert pulled.bytes_out() >= sum(path.stat().st_size for path in files.iterdir())
    out = tmp_path / "out"
    bob.bst("artifact", "checkout", "--deps", "none", "--directory", str(out), name)
    assert tree(out) == tree(files)
