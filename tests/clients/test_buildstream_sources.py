"""BuildStream 2 with this node as its source cache."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.clients.buildstream import User, queue, server, sources, write_yaml
from tests.clients.tools import Counted
from tests.process import Node

pytestmark = pytest.mark.clients

FILES = {"pkg-1/main.c": b"int main(void) { return 0; }\n", "pkg-1/data.bin": b"\x00\xff" * 500_000}
NAMES = ("one.bst", "two.bst")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two elements whose sources are an archive each, and one that has none."""
    root = tmp_path / "project"
    write_yaml(
        root / "project.conf",
        {"name": "shop", "min-version": "2.0", "aliases": {"origin": f"{root.as_uri()}/origin/"}},
    )
    for name in NAMES:
        archive = root / "origin" / f"{name}.tar"
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w") as tar:
            for path, data in {**FILES, "pkg-1/name": name.encode()}.items():
                member = tarfile.TarInfo(path)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        ref = hashlib.sha256(archive.read_bytes()).hexdigest()
        tar_source = {"kind": "tar", "url": f"origin:{archive.name}", "ref": ref}
        write_yaml(root / name, {"kind": "import", "sources": [tar_source]})
    write_yaml(root / "all.bst", {"kind": "stack", "depends": list(NAMES)})
    return root


def forget_origin(project: Path) -> None:
    for archive in (project / "origin").iterdir():
        archive.unlink()


@pytest.mark.parametrize("instance", ["", "team/a"])
def test_sources_come_from_the_node_when_their_origin_is_gone(
    tmp_path: Path, project: Path, node: Node, instance: str
) -> None:
    cache = sources(server(node.address, instance=instance))
    pushed = Counted(node)
    alice = User(tmp_path / "alice", project, **cache)
    result = alice.bst("source", "push", "--deps", "all", "all.bst")
    assert queue(result, "Src-push") == (len(NAMES) + 1, 0, 0)
    assert pushed.calls("PushDirectory") == len(NAMES)
    assert pushed.calls("PushBlob") == len(NAMES) + 1
    forget_origin(project)

    stranger = User(tmp_path / "stranger", project)
    assert "FAILURE" in stranger.bst("source", "fetch", "--deps", "all", "all.bst", code=255)

    fetched = Counted(node)
    bob = User(
        tmp_path / "bob", project, **sources(server(node.address, push=False, instance=instance))
    )
    result = bob.bst("source", "fetch", "--deps", "all", "all.bst")
    assert queue(result, "Fetch")[2] == 0
    assert fetched.hits("asset") >= len(NAMES)
    for name in NAMES:
        found = bob.checkout(name, "source")
        assert ("file", FILES["pkg-1/data.bin"]) in found.values()
        assert ("file", name.encode()) in found.values()
        assert found == alice.checkout(name, "source")


def test_pushing_sources_again_sends_nothing(tmp_path: Path, project: Path, node: Node) -> None:
    alice = User(tmp_path / "alice", project, **sources(server(node.address)))
    alice.bst("source", "push", "--deps", "all", "all.bst")
    again = Counted(node)
    result = alice.bst("source", "push", "--deps", "all", "all.bst")
    assert queue(result, "Src-push") == (0, len(NAMES) + 1, 0)
    assert again.calls("PushBlob") + again.calls("PushDirectory") == 0
    assert again.bytes_in() == 0
