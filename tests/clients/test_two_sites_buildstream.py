"""Two sites that know each other by certificate, with real BuildStream at both ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.buildstream import ELEMENTS, Project, User, artifacts, queue
from tests.faults.storage.clean import catalogue
from tests.support.certificates import Files, self_signed
from tests.support.polling import wait_until
from tests.support.ports import held_ports
from tests.support.process import Node

pytestmark = pytest.mark.clients

ALL = ("--deps", "all", "app.bst")


class Place:
    """A site: its node's files, one person there, and the certificate it shows to others."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.name = name
        self.server = self_signed(self.folder)
        self.me = self_signed(self.folder, name)
        self.person = self_signed(self.folder, f"person-{name}")
        self.address = f"localhost:{port}"

    def node(self, other: Place, **links: bool) -> Node:
        """Describe its node; links: what the other site is to it."""
        auth = {
            "server-cert": str(other.server.certificate),
            "client-cert": str(self.me.certificate),
            "client-key": str(self.me.key),
        }
        there = {"name": other.name, "url": f"https://{other.address}", "auth": auth}
        tls = {
            "server-cert": str(self.server.certificate),
            "server-key": str(self.server.key),
            "client-certs": str(self.person.certificate),
            "peer-certs": str(other.me.certificate),
        }
        settings: dict[str, Any] = {
            "node-name": self.name,
            "listeners": [{"address": self.address, "push": True, "tls": tls}],
            **{link: [there] for link, is_so in links.items() if is_so},
        }
        return Node(self.folder / "data", settings, name=self.name)

    def user(self, name: str, project: Project, me: Files | None = None) -> User:
        """Return somebody here; by default the one whose certificate is let in."""
        me = me or self.person
        auth = {
            "server-cert": str(self.server.certificate),
            "client-cert": str(me.certificate),
            "client-key": str(me.key),
        }
        server = {"url": f"https://{self.address}", "push": True, "auth": auth}
        return User(self.folder / name, project, **artifacts(server))


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    with held_ports(2) as (paris, tokyo):  # each is told the other's before either listens
        yield Place(tmp_path, "paris", paris), Place(tmp_path, "tokyo", tokyo)


def test_each_site_reads_what_the_other_has(tmp_path: Path, places: tuple[Place, Place]) -> None:
    paris, tokyo = places
    project = Project(tmp_path / "project")
    with (
        paris.node(tokyo, upstreams=True).start(),
        tokyo.node(paris, upstreams=True).start(),
    ):
        alice = paris.user("alice", project)
        assert queue(alice.bst("build", "all.bst"), "Push")[0] == ELEMENTS - 1
        bob = tokyo.user("bob", project)
        built = bob.bst("build", "app.bst")
        assert queue(built, "Pull")[0] > 0
        assert queue(built, "Build")[0] == 1, "only what alice has not built"
        project.forget_origin()
        carol = paris.user("carol", project)
        assert queue(carol.bst("artifact", "pull", *ALL), "Pull") == (ELEMENTS, 0, 0)
        assert carol.checkout("app.bst") == bob.checkout("app.bst")
        stranger = paris.user("stranger", project, self_signed(tmp_path, "stranger"))
        assert "Failed to initialize remote" in stranger.bst("artifact", "pull", *ALL, code=None)


def test_what_one_site_is_given_the_other_serves_when_it_is_gone(
    tmp_path: Path, places: tuple[Place, Place]
) -> None:
    paris, tokyo = places
    project = Project(tmp_path / "project")
    both = {"upstreams": True, "peers": True}
    with paris.node(tokyo, **both).start() as here, tokyo.node(paris, **both).start() as there:
        alice = paris.user("alice", project)
        assert queue(alice.bst("build", "app.bst"), "Push") == (ELEMENTS, 0, 0)
        wait_until(lambda: _held(here) == _held(there), "tokyo to have it all", timeout_s=60)
        assert here.stop() == 0
        project.forget_origin()
        bob = tokyo.user("bob", project)
        assert queue(bob.bst("artifact", "pull", *ALL), "Pull") == (ELEMENTS, 0, 0)
        assert bob.checkout("app.bst") == alice.checkout("app.bst")


def _held(node: Node) -> object:
    """What is committed now: metrics are as of a moment ago, and two old values may be equal."""
    with catalogue(node.data_dir) as connection:
        return connection.execute("SELECT blobs, entries, bytes FROM totals").fetchone()
