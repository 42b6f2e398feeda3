"""The example of three nodes behind HAProxy, run as it is but for addresses and paths."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from federation.core.digest import digest_of
from tests.support.guard import guarded
from tests.support.object_store import BUCKET
from tests.support.polling import pass_time, wait_until
from tests.support.ports import held_ports
from tests.support.process import Node
from tests.support.process_client import Client, action_result, code_of
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
EXAMPLES = Path(__file__).parents[2] / "docs/examples/site"
NAMES = ("node-1", "node-2", "node-3")
LARGE = 9 * 2**20  # two parts
T = TypeVar("T")


class BalancedSite:
    """Three nodes on one site, each with the example's file, and HAProxy before them."""

    def __init__(self, folder: Path, site: TestSite, stack: ExitStack) -> None:
        self.folder = folder
        self.site = site
        self.nodes = [stack.enter_context(self._node(name)) for name in NAMES]
        for node in self.nodes:
            node.start()
        (self.port,) = stack.enter_context(held_ports(1))
        balancer = self._start_balancer()
        stack.callback(balancer.wait, 60)
        stack.callback(balancer.terminate)
        wait_until(
            lambda: balancer.poll() is not None or self.counted("ready") == len(NAMES),
            "HAProxy finds all nodes ready",
        )
        assert balancer.poll() is None, (folder / "haproxy.log").read_text()

    def _node(self, name: str) -> Node:
        keys = self.site.keys()
        text = (EXAMPLES / "node.yaml").read_text()
        for there, here in {
            "node-1": name,
            "/var/lib/federation": str(self.folder / name),
            "10.4.0.11:11001": "127.0.0.1:0",
            "10.4.0.11:8981": "127.0.0.1:0",
            "postgresql://cache@db.example.com/federation?passfile=/etc/federation/pgpass": keys[
                "catalogue"
            ],
            "build-cache": BUCKET,
            "site-1/": self.site.prefix,
            "https://s3.example.com": keys["objects"]["endpoint"],
            "/etc/federation/s3-credentials": keys["objects"]["credentials"],
        }.items():
            assert there in text, there
            text = text.replace(there, here)
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return Node(self.folder / name, args=["--config", str(path)], name=name)

    def _start_balancer(self) -> subprocess.Popen[bytes]:
        text = (EXAMPLES / "haproxy.cfg").read_text()
        text = text.replace("bind 0.0.0.0:11001", f"bind 127.0.0.1:{self.port}")
        text = text.replace("check port 8981", "check")
        for number, node in enumerate(self.nodes, 1):
            health = node.facts["http"].rpartition(":")[2]
            there = f"10.4.0.1{number}:11001"
            assert text.count(there) == 2
            text = text.replace(there, f"{node.address} port {health}")
        text = text.replace("global\n", f"global\n    stats socket {self.folder}/haproxy.sock\n")
        path = self.folder / "haproxy.cfg"
        path.write_text(text)
        program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "no HAProxy here: run tests/servers/install"
        with (self.folder / "haproxy.log").open("ab") as log:
            return subprocess.Popen(guarded([program, "-db", "-f", path]), stdout=log, stderr=log)

    def counted(self, backend: str) -> int:
        """How many nodes HAProxy takes to be up; -1: it does not answer yet."""
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.connect(str(self.folder / "haproxy.sock"))
            except OSError:
                return -1
            asking.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: asking.recv(65536), b"")).decode()
        rows = [line.split(",") for line in answer.splitlines()]
        return sum(row[0] == backend and row[1] in NAMES and row[17] == "UP" for row in rows[1:-1])

    def client(self) -> Client:
        """A client on a connection of its own."""
        return Client(f"127.0.0.1:{self.port}")


@pytest.fixture
def balanced(site: TestSite, tmp_path: Path) -> Iterator[BalancedSite]:
    with ExitStack() as stack:
        yield BalancedSite(tmp_path, site, stack)


def again(call: Callable[..., T], *arguments: object) -> T:
    """Call as build clients do, which try again what was UNAVAILABLE."""
    for _ in range(100):
        try:
            return call(*arguments)
        except grpc.RpcError as error:
            if code_of(error) is not grpc.StatusCode.UNAVAILABLE:
                raise
            pass_time(0.1)
    return call(*arguments)


def test_what_is_written_through_one_node_is_read_through_all_and_builds_survive_a_killed_one(
    balanced: BalancedSite,
) -> None:
    blobs = [os.urandom(size) for size in (100, 50_000, LARGE)]
    digests = [digest_of(data) for data in blobs]
    action = digest_of(os.urandom(10))
    with balanced.client() as builder:
        for data in blobs:
            builder.write(data)
        builder.update_action_result(action, action_result([("out", digests[2])]))
    for node in balanced.nodes:
        with Client(node.address) as client:
            assert client.find_missing(digests) == set()
            assert client.get_action_result(action) is not None
    with ExitStack() as stack:
        builders = [stack.enter_context(balanced.client()) for _ in range(6)]  # at all nodes
        for builder in builders:
            assert [builder.read(digest) for digest in digests] == blobs
        balanced.nodes[0].kill()
        for number, builder in enumerate(builders):
            again(builder.write, os.urandom(LARGE if number else 100))
            assert again(builder.find_missing, digests) == set()
            assert again(builder.read, digests[2]) == blobs[2]
    wait_until(lambda: balanced.counted("ready") == 2, "HAProxy has noticed the killed node")


def test_while_the_database_is_away_the_balancer_leads_to_nodes_that_serve_their_caches(
    balanced: BalancedSite,
) -> None:
    data = os.urandom(LARGE)
    digest = digest_of(data)
    action = digest_of(os.urandom(10))
    with balanced.client() as builder:
        builder.write(data)
        builder.update_action_result(action, action_result([("out", digest)]))
    for node in balanced.nodes:
        with Client(node.address) as client:
            assert client.read(digest) == data
            assert client.get_action_result(action) is not None
    balanced.site.servers.database.pause()
    try:
        wait_until(lambda: balanced.counted("ready") == 0, "no node is ready")
        with balanced.client() as builder:
            assert again(builder.read, digest) == data
            assert again(builder.get_action_result, action) is None, "the build goes on without it"
    finally:
        balanced.site.servers.database.resume()
    wait_until(lambda: balanced.counted("ready") == len(NAMES), "all nodes are ready again")
