"""BuildStream 2 with two servers as the old server's page sets them up: to push, and to pull."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.access import page
from tests.clients.buildstream import ELEMENTS, Project, User, artifacts, queue
from tests.support.certificates import Files
from tests.support.process import Node

pytestmark = pytest.mark.clients


class Site(NamedTuple):
    """The two servers of the page, and who has which key."""

    trusted: Path
    alice: Files
    mallory: Files
    pull: Node
    push: Node

    def server(self, node: Node, *, push: bool, me: Files | None = None) -> dict[str, Any]:
        """Return the configuration entry of one server."""
        auth = {"server-cert": str(self.trusted)}
        if me is not None:
            auth |= {"client-cert": str(me.certificate), "client-key": str(me.key)}
        return {"url": f"https://{page.local(node)}", "push": push, "auth": auth}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    trusted = page.make(tmp_path, "localhost", "server").certificate
    alice, mallory = (page.make(tmp_path, name, name) for name in ("alice", "mallory"))
    page.append(alice.certificate, tmp_path / "authorized.crt")
    data_dir = tmp_path / "artifacts"
    with (
        page.server(data_dir, page.PULL, "pull").start() as pull,
        page.server(data_dir, page.PUSH, "push").start() as push,
    ):
        yield Site(trusted, alice, mallory, pull, push)


def test_who_is_listed_pushes_on_one_port_and_everybody_pulls_on_the_other(
    tmp_path: Path, site: Site
) -> None:
    project = Project(tmp_path / "project")
    pushing = site.server(site.push, push=True, me=site.alice)
    alice = User(tmp_path / "alice", project, **artifacts(pushing))
    assert queue(alice.bst("build", "app.bst"), "Push") == (ELEMENTS, 0, 0)

    project.forget_origin()
    reading = site.server(site.pull, push=False)
    bob = User(tmp_path / "bob", project, **artifacts(reading))
    assert queue(bob.bst("build", "app.bst"), "Build")[0] == 0
    assert bob.checkout("app.bst") == alice.checkout("app.bst")


@pytest.mark.parametrize("port", ["pull", "push"])
def test_a01_a03_who_is_not_listed_builds_and_pushes_nothing(
    tmp_path: Path, site: Site, port: str
) -> None:
    project = Project(tmp_path / "project")
    node = site.pull if port == "pull" else site.push
    server = site.server(node, push=True, me=site.mallory)
    mallory = User(tmp_path / "mallory", project, **artifacts(server))
    built = mallory.bst("build", "app.bst")  # a server that is left out does not fail the build
    assert "Failed to initialize remote" in built
    assert queue(built, "Build") == (ELEMENTS, 0, 0)

    bob = User(tmp_path / "bob", project, **artifacts(site.server(site.pull, push=False)))
    missed = bob.bst("artifact", "pull", "--deps", "all", "app.bst", code=None)
    assert queue(missed, "Pull")[0] == 0
