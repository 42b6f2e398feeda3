"""BuildStream 1.4 and 1.6 with the two servers of the old server's page, and with a mirror."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.buildstream.v2.buildstream_pb2 import GetReferenceRequest
from federation._proto.buildstream.v2.buildstream_pb2_grpc import ReferenceStorageStub
from tests.access import page
from tests.clients.buildstream import queue
from tests.clients.buildstream_1 import ELEMENTS, VERSIONS, Project, User, Version
from tests.support.certificates import Files, self_signed
from tests.support.process import Node
from tests.support.process_client import Client

pytestmark = pytest.mark.clients


class Site(NamedTuple):
    """The two servers of the page, and who has which key."""

    folder: Path
    trusted: Path
    alice: Files
    mallory: Files
    pull: Node
    push: Node

    def server(self, node: Node, *, push: bool, me: Files | None = None) -> dict[str, Any]:
        """Return the configuration entry of one server."""
        entry = {"url": f"https://{page.local(node)}", "push": push}
        entry["server-cert"] = str(self.trusted)
        if me is not None:
            entry |= {"client-cert": str(me.certificate), "client-key": str(me.key)}
        return entry

    def user(self, name: str, project: Project, version: Version, *servers: Any) -> User:
        """Return somebody with an empty cache."""
        return User(self.folder / name, project, version, *servers)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    trusted = self_signed(tmp_path, cn="localhost", hosts=()).certificate
    alice, mallory = (self_signed(tmp_path, name, hosts=()) for name in ("alice", "mallory"))
    page.append(alice.certificate, tmp_path / "authorized.crt")
    data_dir = tmp_path / "artifacts"
    with (
        page.server(data_dir, page.PULL, "pull").start() as pull,
        page.server(data_dir, page.PUSH, "push").start() as push,
    ):
        yield Site(tmp_path, trusted, alice, mallory, pull, push)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_pushed_on_one_port_is_pulled_on_the_other(
    site: Site, project: Project, version: Version
) -> None:
    pushing = site.server(site.push, push=True, me=site.alice)
    alice = site.user("alice-home", project, version, pushing)
    assert queue(alice.bst("build", "all.bst"), "Push") == (ELEMENTS, 0, 0)

    bob = site.user("bob-home", project, version, site.server(site.pull, push=False))
    pulled = bob.bst("pull", "--deps", "all", "all.bst")
    assert queue(pulled, "Pull") == (ELEMENTS, 0, 0)
    assert bob.checkout("all.bst") == alice.checkout("all.bst")
    assert queue(alice.bst("push", "--deps", "all", "all.bst"), "Push") == (0, ELEMENTS, 0)


@pytest.mark.parametrize(("port", "version"), [("pull", "bst-1.6"), ("push", "bst-1.4")])
def test_a01_a03_who_is_not_listed_builds_and_pushes_nothing(
    site: Site, project: Project, version: Version, port: str
) -> None:
    node = site.pull if port == "pull" else site.push
    server = site.server(node, push=True, me=site.mallory)
    mallory = site.user("mallory-home", project, version, server)
    built = mallory.bst("build", "all.bst")
    assert queue(built, "Build") == (ELEMENTS, 0, 0)

    bob = site.user("bob-home", project, version, site.server(site.pull, push=False))
    missed = bob.bst("pull", "--deps", "all", "all.bst", code=None)
    assert queue(missed, "Pull")[0] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_lost_a_blob_is_repaired_by_the_next_push(
    site: Site, project: Project, version: Version
) -> None:
    alice = site.user(
        "alice-home", project, version, site.server(site.push, push=True, me=site.alice)
    )
    alice.bst("build", "all.bst")
    lost = max((site.folder / "artifacts" / "blobs").rglob("*-*"), key=lambda f: f.stat().st_size)
    lost.unlink()
    bob = site.user("bob-home", project, version, site.server(site.pull, push=False))
    assert queue(bob.bst("pull", "all.bst", code=None), "Pull")[0] == 0
    assert queue(alice.bst("push", "all.bst"), "Push") == (1, 0, 0)
    assert queue(bob.bst("pull", "all.bst"), "Pull") == (1, 0, 0)
    assert bob.checkout("all.bst") == alice.checkout("all.bst")


def test_both_services_have_one_name_space(site: Site, project: Project) -> None:
    alice = site.user(
        "alice-home", project, "bst-1.4", site.server(site.push, push=True, me=site.alice)
    )
    alice.bst("build", "all.bst")
    reference = f"shop/all/{alice.key('all.bst')}"
    with page.connect(site.pull, site.trusted) as client:
        found = client.fetch.FetchDirectory(_v1(reference), timeout=60)
        storage = ReferenceStorageStub(client.channel)
        kept = storage.GetReference(GetReferenceRequest(key=reference), timeout=60)
    assert found.root_directory_digest == kept.digest


def _v1(reference: str) -> asset.FetchDirectoryRequest:
    uri = f"urn:fdc:buildstream.build:2020:v1:{reference}"
    return asset.FetchDirectoryRequest(uris=[uri])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mirror_serves_what_was_pushed_to_another_node(
    site: Site, project: Project, version: Version
) -> None:
    pushing = site.server(site.push, push=True, me=site.alice)
    alice = site.user("alice-home", project, version, pushing)
    alice.bst("build", "all.bst")
    upstream = {
        "name": "origin",
        "url": f"https://{page.local(site.pull)}",
        "auth": {"server-cert": str(site.trusted)},
    }
    settings = {"listeners": [{"address": "127.0.0.1:0"}], "upstreams": [upstream]}
    with Node(site.folder / "mirror", settings, name="mirror").start() as mirror:
        server = {"url": f"http://{mirror.address}", "push": False}
        bob = site.user("bob-home", project, version, server)
        assert queue(bob.bst("pull", "--deps", "all", "all.bst"), "Pull") == (ELEMENTS, 0, 0)
        assert bob.checkout("all.bst") == alice.checkout("all.bst")
        with Client(mirror.address) as client:
            reference = f"shop/all/{alice.key('all.bst')}"
            assert client.fetch.FetchDirectory(_v1(reference), timeout=60).uri
