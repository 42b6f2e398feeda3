"""The example of two sites that mirror each other, run as it is but for addresses and paths."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import digest_of
from tests.faults.replication.link import Link
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import Client, action_result, outcome

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
OTHER = {"paris": "tokyo", "tokyo": "paris"}
LARGE, SMALL = random.Random(1).randbytes(6_000_000), b"small"
ACTION = digest_of(b"an action")


class Site:
    """A node of the example; the other site reaches it at the same address over restarts."""

    def __init__(self, name: str, folder: Path, stack: ExitStack) -> None:
        self.name = name
        self.folder = folder
        self.link = stack.enter_context(Link())
        for purpose, named in (("server", "127.0.0.1"), ("client", name)):
            out = str(folder / f"{name}-{purpose}")
            done = CliRunner().invoke(main, ["keygen", purpose, named, "--out", out])
            assert done.exit_code == 0, done.output

    def prepare(self, other: Site) -> Node:
        text = (EXAMPLES / f"two-sites-{self.name}.yaml").read_text()
        for there, here in {
            "/var/lib/federation": str(self.folder / self.name),
            f"{other.name}.example.com:11002": other.link.address,
            "/etc/federation/server": str(self.folder / f"{self.name}-server"),
            "/etc/federation/client": str(self.folder / f"{self.name}-client"),
            "/etc/federation": str(self.folder),
            "10.1.0.5:11001": "127.0.0.1:0",
            "10.2.0.5:11001": "127.0.0.1:0",
            "0.0.0.0:11002": "127.0.0.1:0",
            "127.0.0.1:8981": "127.0.0.1:0",
        }.items():
            text = text.replace(there, here)
        path = self.folder / f"{self.name}.yaml"
        path.write_text(text)
        self.node = Node(self.folder / self.name, args=["--config", str(path)], name=self.name)
        return self.node

    def start(self) -> Site:
        self.node.start()
        self.link.target = self.node.addresses[1]
        return self

    def peer(self) -> dict[str, Any]:
        """What this site says of the other."""
        code, text = self.node.http_get("/")
        assert code == 200, text
        facts: dict[str, Any] = json.loads(text)["peers"][0]
        assert facts["name"] == OTHER[self.name]
        return facts

    def client(self) -> Client:
        return Client(self.node.address)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    with ExitStack() as stack:
        paris, tokyo = (Site(name, tmp_path, stack) for name in OTHER)
        for site, other in ((paris, tokyo), (tokyo, paris)):
            stack.enter_context(site.prepare(other))
        yield paris.start(), tokyo.start()


def are_alike(*sites: Site) -> bool:
    return all(
        (facts := site.peer())["state"] == "following" and not facts["lag-objects"]
        for site in sites
    )


def test_what_is_pushed_at_either_site_is_soon_at_both_and_crosses_once(
    sites: tuple[Site, Site],
) -> None:
    paris, tokyo = sites
    wait_until(lambda: are_alike(*sites), "they have met")
    with paris.client() as here, tokyo.client() as there:
        for data in (LARGE, SMALL):
            here.write(data)
        here.push_blob("urn:a", digest_of(LARGE), [digest_of(SMALL)])
        there.write(b"theirs")
        there.update_action_result(ACTION, action_result([("out", digest_of(b"theirs"))]))
        wait_until(lambda: there.fetch_blob("urn:a") == digest_of(LARGE), "the asset")
        wait_until(lambda: here.get_action_result(ACTION) is not None, "the result")
        assert there.read(digest_of(LARGE)) == LARGE
        wait_until(lambda: are_alike(*sites), "all is acknowledged")
        wait_until(lambda: sent(paris) >= 3 and sent(tokyo) >= 2, "it is counted")
        assert (sent(paris), sent(tokyo)) == (3, 2)


def sent(site: Site) -> int:
    return int(site.peer()["sent-objects-total"])


def test_a_site_that_was_down_gets_what_it_missed(sites: tuple[Site, Site]) -> None:
    paris, tokyo = sites
    wait_until(lambda: are_alike(*sites), "they have met")
    tokyo.node.stop()
    with paris.client() as here:
        here.write(SMALL)
        here.push_blob("urn:a", digest_of(SMALL))
    wait_until(lambda: paris.peer()["lag-objects"] == 2, "the lag is seen")
    with tokyo.start().client() as there:
        arrived = digest_of(SMALL)
        wait_until(lambda: there.fetch_blob("urn:a") == arrived, "it arrives")


def test_only_the_other_node_gets_in_where_it_is_let_in(sites: tuple[Site, Site]) -> None:
    paris, tokyo = sites
    folder = paris.folder

    def write_as(name: str) -> grpc.StatusCode:
        pair = [folder / f"{name}-client.key", folder / f"{name}-client.crt"]
        roots = folder / "paris-server.crt"
        credentials = grpc.ssl_channel_credentials(*(p.read_bytes() for p in (roots, *pair)))
        address = paris.node.addresses[1]
        with Client(address, credentials=credentials) as client:
            return outcome(lambda: client.write(b"x"))

    assert write_as("tokyo") is grpc.StatusCode.OK
    assert write_as("paris") is grpc.StatusCode.UNAVAILABLE  # a stranger to this listener
    assert tokyo.node.running
