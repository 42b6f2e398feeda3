"""Two real nodes on one shared site: interchangeable, and one is enough."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest

from federation.core.digest import Digest, digest_of
from tests.support.object_store import SECRET_KEY
from tests.support.polling import wait_until
from tests.support.process import Node, federation, serve
from tests.support.process_client import Client, action_result
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
LARGE = 9 * 2**20  # two parts


@pytest.fixture
def nodes(site: TestSite, tmp_path: Path) -> Iterator[list[Node]]:
    with ExitStack() as stack:
        rules = [{"match": "pr/*", "reads-from": ["main"]}]
        settings = {"storage": dict(site.keys()), "instances": rules}
        yield [
            stack.enter_context(serve(tmp_path / name, settings, name=name)) for name in ("a", "b")
        ]


def test_d01_what_one_node_acknowledged_the_other_serves_after_the_first_was_killed(
    nodes: list[Node],
) -> None:
    one, other = nodes
    blobs = [os.urandom(size) for size in (100, 50_000, LARGE)]
    digests = [digest_of(data) for data in blobs]
    action = digest_of(os.urandom(10))
    with Client(one.address) as client:
        for data in blobs:
            client.write(data)
        client.update_action_result(action, action_result([("out", digests[2])]))
    one.kill()
    with Client(other.address) as client:
        assert client.find_missing(digests) == set()
        assert [client.read(digest) for digest in digests] == blobs
        assert client.get_action_result(action) is not None


def test_an_instance_reads_from_another_at_every_node(nodes: list[Node]) -> None:
    one, other = nodes
    action, (ours, theirs) = digest_of(b"two tiers"), (b"ours" * 5, b"theirs" * 5)
    results = [action_result([("out", digest_of(data))]) for data in (ours, theirs)]
    with Client(one.address, "main") as in_main, Client(other.address, "pr/7") as in_pr:
        in_main.batch_update([ours, theirs])
        in_main.update_action_result(action, results[0])
        assert [in_pr.get_action_result(action) for _ in range(2)] == [results[0]] * 2
        in_pr.update_action_result(action, results[1])
        assert in_pr.get_action_result(action) == results[1]
        assert in_main.get_action_result(action) == results[0]


def test_a_killed_node_starts_again_without_ceremony(nodes: list[Node]) -> None:
    one, other = nodes
    data = os.urandom(LARGE)
    with Client(other.address) as client:
        client.write(data)
    one.kill()
    one.start()
    with Client(one.address) as client:
        assert client.read(digest_of(data)) == data


def test_the_nodes_of_a_site_are_one_to_others(nodes: list[Node]) -> None:
    ids = {node.facts["node_id"] for node in nodes}
    assert len(ids) == 1


def test_d09_another_node_leads_once_the_lead_was_killed(nodes: list[Node], site: TestSite) -> None:
    def term() -> int:
        rows = site.sql("SELECT term FROM lead WHERE role = 'upkeep'")
        return int(rows[0][0]) if rows else 0

    wait_until(term, "a node leads")
    before = term()
    for node in nodes:
        node.kill()
    nodes[1].start()
    wait_until(lambda: term() > before, "the other node has taken over")


def test_no_secret_of_the_bucket_is_in_a_log(nodes: list[Node]) -> None:
    with Client(nodes[0].address) as client:
        client.write(os.urandom(50_000))
    for node in nodes:
        assert SECRET_KEY not in node.log_path.read_text()


def test_commands_work_on_the_site_whichever_node_they_are_run_beside(nodes: list[Node]) -> None:
    one, other = nodes
    data = os.urandom(LARGE)
    digest = digest_of(data)
    with Client(one.address) as client:
        client.write(data)
    for command, shown in (
        (("status", "--json"), one.facts["node_id"]),
        (("explain", str(digest), "--json"), digest.hash_hex),
        (("verify", "--json"), '"damaged-blobs": 0'),
    ):
        done = federation(*command, "--config", str(other.config_path))
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
        assert isinstance(json.loads(done.stdout), dict), "nothing else is on standard output"
    done = federation("status", "--config", str(other.config_path))
    assert re.search(r"^held: +9\.0M of 10\.0G, 0 %; 1 blob, 0 entries$", done.stdout, re.MULTILINE)


def test_d12_what_a_command_purges_no_node_gives_out_any_more(nodes: list[Node]) -> None:
    one, other = nodes
    data = os.urandom(LARGE)
    digest = digest_of(data)
    with Client(one.address) as first, Client(other.address) as second:
        first.write(data)
        assert second.read(digest) == data  # from now on it is in both caches
        purge = ("purge", str(digest), "--yes", "--json", "--config", str(other.config_path))
        done = federation(*purge)
        assert f'"bytes": {LARGE}' in done.stdout, done.stderr
        for client in (first, second):
            wait_until(partial(is_absent, client, digest), "it is given out no more")
        first.write(data)
        assert second.read(digest) == data


def is_absent(client: Client, digest: Digest) -> bool:
    try:
        client.read(digest)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


def test_a_node_may_be_several_processes(site: TestSite, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    settings = {"storage": dict(site.keys()), "workers": 2}
    with serve(tmp_path / "node", settings) as node:
        for _ in range(4):  # each connection may be at another process
            with Client(node.address) as client:
                client.write(data)
                assert client.read(digest_of(data)) == data


def test_an_http_cache_is_served_from_the_site_too(site: TestSite, tmp_path: Path) -> None:
    listeners = [{"address": "127.0.0.1:0", "protocol": "http", "push": True}]
    settings = {"storage": dict(site.keys()), "listeners": listeners}
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(serve(tmp_path / name, settings, name=name)) for name in "ab"
        )
        for data in (os.urandom(100), os.urandom(LARGE)):
            path = f"cas/{digest_of(data).hash_hex}"
            put = urllib.request.Request(f"http://{one.address}/{path}", data, method="PUT")
            with urllib.request.urlopen(put, timeout=60) as answer:
                assert answer.status in (200, 201)
            for node in (other, one, other):
                with urllib.request.urlopen(f"http://{node.address}/{path}", timeout=60) as answer:
                    assert answer.read() == data


def test_what_one_node_pulled_from_an_upstream_the_other_serves_without_it(
    site: TestSite, tmp_path: Path
) -> None:
    blobs = [os.urandom(size) for size in (100, 50_000, LARGE)]
    with serve(tmp_path / "upstream", name="upstream") as upstream:
        with Client(upstream.address) as client:
            for data in blobs:
                client.write(data)
        upstreams = [{"name": "there", "url": f"grpc://{upstream.address}"}]
        settings = {"storage": dict(site.keys()), "upstreams": upstreams}
        with serve(tmp_path / "a", settings, name="a") as one, Client(one.address) as client:
            assert [client.read(digest_of(data)) for data in blobs] == blobs
            wait_until(
                lambda: not client.find_missing(map(digest_of, blobs)), "all are in the site"
            )
    settings = {"storage": dict(site.keys())}
    with serve(tmp_path / "b", settings, name="b") as other, Client(other.address) as client:
        assert [client.read(digest_of(data)) for data in blobs] == blobs
