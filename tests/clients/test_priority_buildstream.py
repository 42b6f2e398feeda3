"""BuildStream 2 with two nodes, one named by the project and one by the user: who is asked when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.clients.buildstream import (
    ELEMENTS,
    Project,
    User,
    artifacts,
    queue,
    server,
    write_yaml,
)
from tests.clients.casd import free_address
from tests.clients.tools import Counted
from tests.support.polling import wait_until
from tests.support.process import Node, serve

pytestmark = pytest.mark.clients

ALL = ("--deps", "all", "app.bst")
IMPATIENT = {"connection-config": {"retry-limit": 1, "retry-delay": 100}}


class Site(NamedTuple):
    """A project whose project.conf names one node, and a user who names another before it."""

    folder: Path
    project: Project
    users: Node
    projects: Node

    def user(self, name: str, *servers: dict[str, Any], **config: Any) -> User:
        """Return somebody with an empty cache whose own file lists these servers."""
        return User(self.folder / name, self.project, **artifacts(*servers), **config)

    def builder(self, *servers: dict[str, Any]) -> User:
        """Return somebody who has built everything with these servers."""
        user = self.user("builder", *servers)
        assert queue(user.bst("build", "app.bst"), "Build") == (ELEMENTS, 0, 0)
        self.project.forget_origin()
        return user


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    project = Project(tmp_path / "project")
    with (
        serve(tmp_path / "users", name="users") as users,
        serve(tmp_path / "projects", name="projects") as projects,
    ):
        file = project.root / "project.conf"
        settings = yaml.safe_load(file.read_text())
        write_yaml(file, {**settings, "artifacts": [server(projects.address)]})
        yield Site(tmp_path, project, users, projects)


def pulls_all(user: User) -> None:
    """Check that everything can be pulled, and that what comes can be used."""
    assert queue(user.bst("artifact", "pull", *ALL), "Pull") == (ELEMENTS, 0, 0)
    assert user.checkout("app.bst")


def blobs_at(node: Node) -> float:
    """Return how many blobs a node says that it holds; it counts them every few seconds."""
    return node.metrics().value("federation_stored_blobs")


def alone(*servers: dict[str, Any]) -> dict[str, Any]:
    """Return a user's `artifacts` that leaves out the project's servers."""
    return {"servers": list(servers), "override-project-caches": True}


def test_what_is_built_goes_to_every_server_that_takes_it(site: Site) -> None:
    site.builder(server(site.users.address))
    for name, node in (("one", site.users), ("two", site.projects)):
        settings = {"artifacts": alone(server(node.address, push=False))}
        pulls_all(User(site.folder / name, site.project, **settings))


def test_a_server_without_push_gets_nothing(site: Site) -> None:
    site.builder(server(site.users.address, push=False))
    wait_until(lambda: blobs_at(site.projects) > 0, "the push has been counted")
    assert blobs_at(site.users) == 0


def test_the_users_server_is_asked_first_and_the_projects_only_for_what_it_lacks(
    site: Site,
) -> None:
    site.builder(server(site.users.address))
    first, second = Counted(site.users), Counted(site.projects)
    pulls_all(site.user("bob", server(site.users.address, push=False)))
    assert first.calls("FetchBlob") == ELEMENTS
    assert second.calls("FetchBlob") == second.calls("Read") == 0


def test_what_the_first_misses_comes_from_the_second(site: Site) -> None:
    settings = {"artifacts": alone(server(site.projects.address))}
    builder = User(site.folder / "builder", site.project, **settings)
    builder.bst("build", "app.bst")
    site.project.forget_origin()
    first, second = Counted(site.users), Counted(site.projects)
    pulls_all(site.user("bob", server(site.users.address, push=False)))
    assert first.calls("FetchBlob", "NOT_FOUND") == ELEMENTS
    assert second.calls("FetchBlob") == ELEMENTS


def test_a_first_that_is_down_is_left_out(site: Site) -> None:
    with free_address() as nobody:
        dead = {**server(nobody), **IMPATIENT}
        site.builder(dead)
        bob = site.user("bob", {**dead, "push": False})
        pulled = bob.bst("artifact", "pull", *ALL)
        assert f"Failed to initialize remote http://{nobody}" in pulled
        assert queue(pulled, "Pull") == (ELEMENTS, 0, 0)


def test_the_users_file_may_replace_the_servers_of_one_project(site: Site) -> None:
    site.builder(server(site.users.address))
    replaced = {"shop": {"artifacts": alone(server(site.projects.address, push=False))}}
    first, second = Counted(site.users), Counted(site.projects)
    pulls_all(site.user("bob", server(site.users.address, push=False), projects=replaced))
    assert first.calls("FetchBlob", None) == 0
    assert second.calls("FetchBlob") == ELEMENTS
