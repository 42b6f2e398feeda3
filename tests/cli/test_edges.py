"""The example of edges in front of two shared nodes, run as it is but for addresses and paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import digest_of
from tests.faults.replication.link import Link
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import Client, action_result

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples/edges"
HUBS = {"north": "south", "south": "north"}
EDGES = ("edge-1", "edge-2")
ACTION, RESULT = digest_of(b"an action"), action_result([("out", digest_of(b"one"))])


class Edges:
    """Two shared nodes, each behind a link that keeps its address, and two edges."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.links = {name: stack.enter_context(Link()) for name in HUBS}
        for name in (*HUBS, *EDGES):
            self.keygen("client", name, name)
        for name in HUBS:
            self.keygen("server", "127.0.0.1", name)
        known = [folder / f"{name}-client.crt" for name in (*HUBS, *EDGES)]
        (folder / "nodes.crt").write_text("".join(path.read_text() for path in known))
        self.nodes = {name: stack.enter_context(self.prepare(name)) for name in (*HUBS, *EDGES)}
        for name in (*HUBS, *EDGES):
            self.start(name)

    def keygen(self, purpose: str, named: str, name: str) -> None:
        out = str(self.folder / f"{name}-{purpose}")
        done = CliRunner().invoke(main, ["keygen", purpose, named, "--out", out])
        assert done.exit_code == 0, done.output

    def prepare(self, name: str) -> Node:
        text = (EXAMPLES / ("hub.yaml" if name in HUBS else "edge.yaml")).read_text()
        if name == "south":
            text = re.sub(r"\b(north|south)\b", lambda found: HUBS[found[0]], text)
        for there, here in {
            "/var/lib/federation": self.folder / name,
            "edge-1": name,
            **{f"{hub}.example.com:11002": link.address for hub, link in self.links.items()},
            "/etc/federation/server": self.folder / f"{name}-server",
            "/etc/federation/client": self.folder / f"{name}-client",
            "/etc/federation": self.folder,
            "10.3.0.5:11001": "127.0.0.1:0",
            "0.0.0.0:11002": "127.0.0.1:0",
            "127.0.0.1:8981": "127.0.0.1:0",
        }.items():
            text = text.replace(there, str(here))
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return Node(self.folder / name, args=["--config", str(path)], name=name)

    def start(self, name: str) -> None:
        self.nodes[name].start()
        if name in HUBS:
            self.links[name].target = self.nodes[name].address

    def client(self, name: str) -> Client:
        return Client(self.nodes[name].address)

    def wait_for(self, name: str, blobs: int) -> None:
        wait_until(lambda: stored(self.nodes[name]) == blobs, f"{name} has {blobs} blobs")


def stored(node: Node) -> int:
    return int(node.metrics().value("federation_stored_blobs"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Edges]:
    with ExitStack() as stack:
        yield Edges(tmp_path, stack)


def test_what_one_edge_gets_is_served_at_the_other_and_survives_a_shared_node(site: Edges) -> None:
    with site.client("edge-1") as one, site.client("edge-2") as two:
        one.write(b"one")
        one.update_action_result(ACTION, RESULT)
        for hub in HUBS:
            site.wait_for(hub, 1)
        assert two.read(digest_of(b"one")) == b"one"
        wait_until(lambda: two.get_action_result(ACTION) is not None, "the result has arrived")

        site.nodes["north"].kill()
        one.write(b"two")
        site.wait_for("south", 2)
        assert two.find_missing([digest_of(b"two")])  # not at this edge yet
        assert two.read(digest_of(b"two")) == b"two"

        site.start("north")
        site.wait_for("north", 2)


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("edges/hub.yaml", "yaml"),
        ("edges/edge.yaml", "yaml"),
        ("site/node.yaml", "yaml"),
        ("site/haproxy.cfg", ""),
    ],
)
def test_the_page_shows_what_is_in_the_file(path: str, language: str) -> None:
    text = (DOCS / "examples" / path).read_text()
    assert f"```{language}\n{text}```\n" in (DOCS / "scaling.md").read_text()
