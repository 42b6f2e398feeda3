"""BuildStream 2 at several sites that mirror each other, nodes and buildbox-casd alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.digest import Digest
from tests.clients.buildstream import ELEMENTS, Project, User, artifacts, queue, server, sources
from tests.clients.casd import casd, free_address
from tests.clients.tools import tree
from tests.faults.replication.mesh import Mesh, full, held_in, is_idle, only_peer
from tests.support.polling import wait_until
from tests.support.process import serve

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]

ALL = ("--deps", "all", "app.bst")


def user(folder: Path, name: str, project: Project, address: str, *, push: bool) -> User:
    """Somebody with an empty cache, whose artifacts and sources are on one server."""
    servers = [server(address, push=push) for _ in range(2)]
    return User(folder / name, project, **artifacts(servers[0]), **sources(servers[1]))


def build_and_push(folder: Path, project: Project, address: str) -> dict[str, tuple[str, object]]:
    """Build everything, push artifacts and sources, and lose the archives they came from.

    Returns what came out.
    """
    alice = user(folder, "alice", project, address, push=True)
    built = alice.bst("build", "app.bst")
    assert queue(built, "Push") == (ELEMENTS, 0, 0)
    alice.bst("source", "push", *ALL)
    project.forget_origin()
    return alice.checkout("app.bst")


def take_everything(taker: User, app: dict[str, tuple[str, object]]) -> None:
    """Get all artifacts and sources, and build nothing."""
    built = taker.bst("build", *ALL)
    assert queue(built, "Pull") == (ELEMENTS, 0, 0)
    assert queue(built, "Build")[0] == 0
    assert taker.checkout("app.bst") == app
    assert queue(taker.bst("source", "fetch", *ALL), "Fetch")[2] == 0
    assert taker.checkout("text.bst", "source") == tree(taker.project.text)


def test_what_is_pushed_at_one_of_three_sites_is_pulled_at_the_others(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    folder = tmp_path / "nodes"
    folder.mkdir()
    with Mesh(folder, full("abc")) as mesh:
        mesh.start()
        mesh.wait_until_idle()
        app = build_and_push(tmp_path, project, mesh.nodes["a"].address)
        mesh.wait_until_equal(within_s=60)
        mesh.wait_until_idle()
        heads = {name: mesh.head(name) for name in mesh.nodes}
        assert heads == dict.fromkeys(mesh.nodes, heads["a"])
        bob = user(tmp_path, "bob", project, mesh.nodes["b"].address, push=False)
        take_everything(bob, app)
        mesh.nodes["a"].kill()
        carol = user(tmp_path, "carol", project, mesh.nodes["c"].address, push=False)
        take_everything(carol, app)
        assert mesh.peer("b", "c")["parked"] == mesh.peer("c", "b")["parked"] == 0


def test_a_casd_as_the_peer_gets_what_a_fresh_user_needs(tmp_path: Path) -> None:
    """It keeps assets, too, so it does instead of the node when that is away."""
    project = Project(tmp_path / "project")
    (tmp_path / "node").mkdir()
    with free_address() as address, casd(tmp_path / "casd", address=address) as there:
        peers = [{"name": "casd", "url": f"grpc://{address}"}]
        with serve(tmp_path / "node" / "data", {"peers": peers}) as node:
            app = build_and_push(tmp_path, project, node.address)
            wait_until(lambda: is_idle(only_peer(node)), "it has everything", timeout_s=60)
            shown = only_peer(node)
            assert (shown["parked"], shown["skipped"], shown["unsupported"]) == (0, {}, {})
            held = [digest for digest in digests_in(node.data_dir) if not digest.is_empty]
            assert there.find_missing(held) == set()
            node.kill()
        bob = user(tmp_path, "bob", project, address, push=False)
        take_everything(bob, app)


def digests_in(data_dir: Path) -> list[Digest]:
    """All that a node holds."""
    return [Digest(key[1:], size) for key, size in held_in(data_dir).blobs]
