"""Real clients that show a token: with it they push, without it they read, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.access.rights import Role
from federation.access.tokens import RANDOM_BYTES, make_token
from federation.core.clock import SystemClock
from tests.access.served import Site
from tests.clients.bazel import ACTIONS, Builder, executed, hits, write_workspace
from tests.clients.buildstream import ELEMENTS, Project, User, artifacts, queue

pytestmark = pytest.mark.clients

CLOSED, OPEN_TO_READ, PLAIN = range(3)  # the last: plain text, on loopback


class Tokens:
    """A node that takes tokens, and two of them."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder)
        now_s = SystemClock().wall_s()
        made = {
            name: make_token(Role.named(name), bytes([at]) * RANDOM_BYTES, now_s)
            for at, name in enumerate(("push", "pull"))
        }
        self.text = {name: each.text for name, each in made.items()}
        self.files = {name: folder / f"{name}.token" for name in made}
        for name, each in made.items():
            self.files[name].write_text(each.text + "\n")
        tokens = folder / "tokens"
        tokens.write_text("".join(f"{each.line}\n" for each in made.values()))
        self.site.listen(auth={"tokens": str(tokens)})
        self.site.listen(auth={"tokens": str(tokens), "anonymous": "pull"})
        plain = {"tokens": str(tokens), "anonymous": "pull"}
        self.site.listeners.append({"address": "127.0.0.1:0", "push": True, "auth": plain})
        self.node = self.site.node()

    def address(self, at: int) -> str:
        return f"localhost:{self.node.addresses[at].rpartition(':')[2]}"

    def server(self, at: int, *, push: bool, token: str | None = None) -> dict[str, Any]:
        """Return BuildStream's configuration entry."""
        auth = {"server-cert": str(self.site.server.certificate)}
        if token is not None:
            auth["access-token"] = str(self.files[token])
        return {"url": f"https://{self.address(at)}", "push": push, "auth": auth}


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    made = Tokens(tmp_path)
    with made.node.start():
        yield made


def test_buildstream_pushes_with_a_token_and_reads_without(tmp_path: Path, tokens: Tokens) -> None:
    project = Project(tmp_path / "project")
    pushing = tokens.server(CLOSED, push=True, token="push")
    alice = User(tmp_path / "alice", project, **artifacts(pushing))
    assert queue(alice.bst("build", "app.bst"), "Push") == (ELEMENTS, 0, 0)

    built = alice.checkout("app.bst")
    project.forget_origin()
    for name, entry in (
        ("bob", tokens.server(OPEN_TO_READ, push=False)),
        ("carol", tokens.server(CLOSED, push=False, token="pull")),
    ):
        user = User(tmp_path / name, project, **artifacts(entry))
        assert queue(user.bst("build", "app.bst"), "Build")[0] == 0
        assert user.checkout("app.bst") == built


@pytest.mark.parametrize(("at", "token"), [(CLOSED, "pull"), (CLOSED, None), (OPEN_TO_READ, None)])
def test_a15_buildstream_pushes_nothing_without_the_right_token(
    tmp_path: Path, tokens: Tokens, at: int, token: str | None
) -> None:
    project = Project(tmp_path / "project")
    entry = tokens.server(at, push=True, token=token)
    mallory = User(tmp_path / "mallory", project, **artifacts(entry))
    built = mallory.bst("build", "app.bst")
    assert queue(built, "Build") == (ELEMENTS, 0, 0)
    reading = tokens.server(OPEN_TO_READ, push=False)
    bob = User(tmp_path / "bob", project, **artifacts(reading))
    missed = bob.bst("artifact", "pull", "--deps", "all", "app.bst", code=None)
    assert queue(missed, "Pull")[0] == 0


def test_bazel_uploads_with_a_token_and_reads_without(tmp_path: Path, tokens: Tokens) -> None:
    workspace, address = write_workspace(tmp_path / "workspace"), tokens.node.addresses[PLAIN]
    shown = f"--remote_header=authorization=Bearer {tokens.text['push']}"
    reading = "--remote_upload_local_results=false"  # Bazel stops otherwise, as it may not write
    early = Builder(tmp_path / "early", workspace, address, reading)
    assert executed(early.build()) == ACTIONS
    first = Builder(tmp_path / "first", workspace, address, shown).build()
    assert (hits(first), executed(first)) == (0, ACTIONS)
    second = Builder(tmp_path / "second", workspace, address, reading).build()
    assert (hits(second), executed(second)) == (ACTIONS, 0)
