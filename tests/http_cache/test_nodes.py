"""Whole nodes: both faces, peers, mirrors, workers, restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import digest_of
from tests.http_cache.http_client import HttpClient, cas_path
from tests.support.polling import wait_until
from tests.support.process import Node, federation, serve
from tests.support.process_client import Client, action_result

GRPC = {"address": "127.0.0.1:0", "push": True}
HTTP = {"address": "127.0.0.1:0", "push": True, "protocol": "http"}
KEYED = ("/kv/main/ab/cd", "/gradle/0123", "/v8/artifacts/ab?slug=t", "/v1/cache/7")


@contextmanager
def node_of(folder: Path, **more: Any) -> Iterator[Node]:
    """Run a node with a listener of each protocol. more: keys of the file, `_` for `-`."""
    folder.mkdir()
    settings: Mapping[str, Any] = {
        "listeners": [GRPC, HTTP],
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    with serve(folder / "data", settings) as node:
        yield node


def http(node: Node) -> HttpClient:
    return HttpClient(node.addresses[1])


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Node]:
    with node_of(tmp_path / "node") as node:
        yield node


@pytest.mark.parametrize("size", [3, 5000, 3_000_000])
def test_each_face_reads_what_the_other_took(both: Node, size: int) -> None:
    with Client(both.address) as grpc:
        data = os.urandom(size)
        path = http(both).put_blob(data)
        assert grpc.read(digest_of(data)) == data
        other = os.urandom(size)
        grpc.write(other)
        assert http(both).get(cas_path(other)) == other
        assert http(both).get(path) == data


def test_results_cross_both_ways(both: Node) -> None:
    with Client(both.address) as grpc:
        for number, uploaded in enumerate((True, False)):
            action = b"action %d" % number
            named = digest_of(action)
            if uploaded:
                http(both).put_blob(action)
            out = b"out %d" % number
            result = action_result([("o", digest_of(out))])
            http(both).put(f"/ac/{named.hash_hex}", result.SerializeToString())
            assert grpc.get_action_result(named) is None
            grpc.write(out)
            assert grpc.get_action_result(named) == result
        named = digest_of(b"by grpc")
        result = action_result([("o", digest_of(b"out 0"))], exit_code=3)
        grpc.update_action_result(named, result)
        assert http(both).get(f"/ac/{named.hash_hex}") == result.SerializeToString()


@pytest.mark.parametrize("size", [0, 10_000, 2_000_000])
def test_what_was_acknowledged_is_there_after_a_kill(both: Node, size: int) -> None:
    data = os.urandom(size)
    path = http(both).put_blob(data)
    for key in KEYED:
        http(both).put(key, data)
    both.kill()
    both.start()
    assert http(both).get(path) == data
    assert [http(both).get(key) for key in KEYED] == [data] * len(KEYED)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_entries_are_replicated_and_outlive_their_node(tmp_path: Path, size: int) -> None:
    with node_of(tmp_path / "tokyo") as tokyo:
        peers = [{"name": "tokyo", "url": f"http://{tokyo.address}"}]
        with node_of(tmp_path / "paris", peers=peers) as paris:
            values = {key: os.urandom(size) for key in KEYED}
            for key, value in values.items():
                http(paris).put(key, value)
            for key, value in values.items():
                wait_until(lambda key=key: http(tokyo).get(key), f"{key} at tokyo")  # type: ignore[misc]
                assert http(tokyo).get(key) == value
            paris.kill()
            assert {key: http(tokyo).get(key) for key in KEYED} == values


def test_a_mirror_pulls_entries_results_and_the_blobs_that_they_name(tmp_path: Path) -> None:
    with node_of(tmp_path / "origin") as origin:
        values = {key: os.urandom(2_000_000) for key in KEYED}
        for key, value in values.items():
            http(origin).put(key, value)
        out = os.urandom(400_000)
        http(origin).put_blob(out)
        http(origin).put_blob(b"action")
        leaf = os.urandom(300)
        http(origin).put_blob(leaf)
        wire = reapi.Digest(hash=digest_of(leaf).hash_hex, size_bytes=len(leaf))
        tree = reapi.Tree(root=reapi.Directory(files=[{"name": "f", "digest": wire}]))
        packed = tree.SerializeToString()
        http(origin).put_blob(packed)
        named = action_result([("o", digest_of(out))])
        there = reapi.Digest(hash=digest_of(packed).hash_hex, size_bytes=len(packed))
        named.output_directories.add(path="d", tree_digest=there)
        result = named.SerializeToString()
        path = f"/ac/{digest_of(b'action').hash_hex}"
        http(origin).put(path, result)
        http(origin).put("/ac/" + "0" * 64, b"{}")
        upstreams = [{"name": "origin", "url": f"http://{origin.address}"}]
        pull = {"prefetch": "none"}
        with node_of(tmp_path / "mirror", upstreams=upstreams, pull=pull) as mirror:
            assert {key: http(mirror).get(key) for key in KEYED} == values
            assert http(mirror).get(cas_path(out)) is None  # its size is not known yet
            assert http(mirror).get(path) == result
            assert http(mirror).get(cas_path(out)) == out
            assert http(mirror).get(cas_path(packed)) == packed
            assert http(mirror).get(cas_path(leaf)) == leaf  # its size is in the tree
            assert http(mirror).get("/ac/" + "0" * 64) == b"{}"
            assert http(mirror).get("/ac/" + "1" * 64) is None
            origin.kill()
            assert {key: http(mirror).get(key) for key in KEYED} == values
            assert http(mirror).get(cas_path(out)) == out
            assert http(mirror).get("/kv/main/other") is None  # and the upstream is down


def test_workers_share_the_port_and_the_entries(tmp_path: Path) -> None:
    with node_of(tmp_path / "node", workers=2) as node:
        for number in range(20):
            http(node).put(f"/kv/main/{number}", b"%d" % number)
        assert [http(node).get(f"/kv/main/{n}") for n in range(20)] == [
            b"%d" % n for n in range(20)
        ]


def test_a_reload_changes_which_namespaces_are_write_once(both: Node) -> None:
    http(both).put("/kv/main/k", b"1")
    rules = [{"match": "kv/*", "write-once": True}]
    both.write_config({**both.settings, "namespaces": rules})
    both.signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in both.log_path.read_text(), "the reload")
    http(both).put("/kv/main/k", b"2")
    assert http(both).get("/kv/main/k") == b"1"


def test_a_listener_of_http_with_type_index_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "n.yaml"
    file.write_text(
        "listeners:\n- address: 127.0.0.1:0\n  protocol: http\n  type: index\n", encoding="utf-8"
    )
    found = federation("check-config", str(file))
    assert found.returncode == 2
    assert f"{file}:4: listeners[0].type" in found.stderr + found.stdout


def explained(node: Node, name: str, code: int = 0) -> dict[str, Any]:
    found = federation("explain", name, "--config", str(node.config_path), "--json")
    assert found.returncode == code, found.stdout + found.stderr
    facts: dict[str, Any] = json.loads(found.stdout)
    return facts


def test_explain_knows_entries_by_namespace_and_key(tmp_path: Path) -> None:
    with node_of(tmp_path / "origin") as origin:
        http(origin).put("/kv/main/a/b", b"value")
        http(origin).put("/v8/artifacts/ab?slug=t", b"value")
        http(origin).put("/kv/main/pulled", b"pulled")
        http(origin).put(f"/ac/{digest_of(b'x').hash_hex}", b"{}")
        http(origin).put_blob(b"action")
        action = digest_of(b"action").hash_hex
        http(origin).put(f"/ac/{action}", action_result([], exit_code=1).SerializeToString())
        (entry,) = explained(origin, "kv/main/a/b")["entries"]
        assert (entry["instance"], entry["value"]) == ("kv/main", str(digest_of(b"value")))
        assert entry["closure"]["complete"] is True
        assert explained(origin, "turborepo/t/ab")["entries"][0]["instance"] == "turborepo/t"
        assert explained(origin, f"ac/{digest_of(b'x').hash_hex}")["entries"][0]["value"]
        assert explained(origin, f"ac/{action}")["action"] == f"{action}/6"
        assert explained(origin, "nx/7", code=1)["entries"] == []
        upstreams = [{"name": "origin", "url": f"http://{origin.address}"}]
        peers = [{"name": "origin", "url": f"http://{origin.address}"}]
        with node_of(tmp_path / "here", upstreams=upstreams, peers=peers) as here:
            facts = explained(here, "kv/main/pulled", code=1)
            assert [each["answer"] for each in facts["upstreams"]] == ["present"]
            assert [each["answer"] for each in facts["peers-say"]] == ["present"]


def test_a_thousand_idle_connections_cost_little_and_others_are_served(tmp_path: Path) -> None:
    limits = {"connections": 4000, "drain": "1s"}
    with (
        node_of(tmp_path / "node", limits=limits) as node,
        Client(node.address) as grpc,
        ExitStack() as idle,
    ):
        grpc.write(b"blob")
        http(node).put("/kv/main/k", b"value")
        rss = node.rss_bytes()
        host, _, port = node.addresses[1].rpartition(":")
        for _ in range(1000):
            one = idle.enter_context(socket.create_connection((host, int(port)), timeout=60))
            one.sendall(b"GET /status HTTP/1.1\r\nHost: c\r\n")  # and no end of the head
        assert grpc.read(digest_of(b"blob")) == b"blob"
        assert http(node).get("/kv/main/k") == b"value"
        assert node.rss_bytes() - rss < 64 * 2**20


def test_a_reader_that_takes_nothing_of_a_file_is_broken_off(tmp_path: Path) -> None:
    with node_of(tmp_path / "node", limits={"stall": "3s"}) as node:
        path = http(node).put_blob(os.urandom(20_000_000))
        host, _, port = node.addresses[1].rpartition(":")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((host, int(port)))
            slow.sendall(f"GET {path} HTTP/1.1\r\nHost: c\r\n\r\n".encode())
            wait_until(lambda: open_blobs(node) == 1, "the answer to begin")
            wait_until(lambda: requests_running(node) == 0, "the answer to be given up")
            wait_until(lambda: open_blobs(node) == 0, "its file to be closed")


def open_blobs(node: Node) -> int:
    """How many files of blobs the node has open; threads open the catalogue at any time."""
    names = []
    for link in Path(f"/proc/{node.pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            names.append(str(link.readlink()))
    return sum(str(node.data_dir / "blobs/") in name for name in names)


def requests_running(node: Node) -> float:
    return node.metrics().value("federation_requests_running")
