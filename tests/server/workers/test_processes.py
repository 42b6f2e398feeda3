"""`workers: 2` as processes: one port, one directory, one node to whoever looks."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.core.digest import digest_of
from federation.server.http.asking import ask
from tests.server.workers.crew import CrewNode
from tests.support.polling import wait_until
from tests.support.process import Node, federation
from tests.support.process_client import Client, outcome, write_requests
from tests.support.samples import Samples

Connect = Callable[[str], Client]
BLOB = os.urandom(200_000)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CrewNode]:
    """One that a test may end or harm."""
    node = CrewNode(tmp_path / "data")
    with node.start():
        yield node


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrewNode]:
    """One for all tests that leave it as it was."""
    node = CrewNode(tmp_path_factory.mktemp("shared") / "data")
    with node.start():
        yield node


def on_each_worker(node: CrewNode, clients: Connect) -> list[Client]:
    """Return clients until each worker has one: the kernel spreads connections over them."""
    found: dict[int, Client] = {}
    for _ in range(64):
        client = clients(node.address)
        before = answered(node)
        client.capabilities()
        (number,) = {w for w, count in answered(node).items() if count > before[w]}
        if number not in found:
            found[number] = client
        if len(found) == len(node.workers()):
            return [found[number] for number in sorted(found)]
    raise AssertionError(f"64 connections all met {found}")


def answered(node: CrewNode) -> dict[int, float]:
    """How many calls of GetCapabilities each worker has answered, as it says itself."""
    found = {}
    for facts in node.workers():
        _, text = asyncio.run(ask(Path(facts["http-socket"]), "/metrics", 60.0))
        found[facts["worker"]] = Samples(text).value("federation_request_seconds_count")
    return found


@pytest.fixture
def clients() -> Iterator[Connect]:
    opened: list[Client] = []

    def connect(address: str) -> Client:
        opened.append(Client(address))
        return opened[-1]

    yield connect
    for client in opened:
        client.channel.close()


def test_all_workers_serve_one_port_and_one_directory(shared: CrewNode, clients: Connect) -> None:
    assert len({facts["listeners"][0] for facts in shared.workers()}) == 1
    first, second = on_each_worker(shared, clients)
    assert first.write(BLOB) == len(BLOB)
    assert second.read(digest_of(BLOB)) == BLOB
    assert second.find_missing([digest_of(BLOB)]) == set()


def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(
    node: CrewNode, clients: Connect
) -> None:
    for client in on_each_worker(node, clients):
        client.batch_update([os.urandom(10)])
    method = "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs"
    address, killed = node.address, node.workers()[0]

    def stored() -> float:
        return node.metrics().value("federation_requests_total", method=method)

    assert stored() == 2
    wait_until(lambda: node.metrics().value("federation_stored_blobs") == 2, "the blobs to count")

    os.kill(killed["pid"], signal.SIGKILL)
    wait_until(lambda: node.events("worker_ended"), "the parent to notice")
    (noticed,) = node.events("worker_ended")
    assert (noticed["worker"], noticed["status"]) == (killed["worker"], 137)
    for _ in range(4):  # the other one, while the first is away
        assert outcome(clients(address).capabilities) is grpc.StatusCode.OK
    assert node.http_get("/readyz")[0] == 200
    assert stored() == 2

    workers = node.wait_for_workers(2)
    assert killed["pid"] not in {facts["pid"] for facts in workers}
    assert {facts["listeners"][0] for facts in workers} == {address}
    assert node.metrics().value("federation_worker_restarts_total") == 1
    assert stored() == 2
    assert node.stop() == 0
    assert list(node.data_dir.glob("run/*.json")) == []


def test_a_running_upload_is_finished_before_all_end(node: CrewNode, clients: Connect) -> None:
    client = clients(node.address)
    first, *rest = write_requests(client.upload_name(digest_of(BLOB)), BLOB, chunk_bytes=50_000)

    def slowly() -> Iterator[bs.WriteRequest]:
        yield first
        wait_until(lambda: node.metrics().value("federation_uploads_open") == 1, "the upload")
        node.signal(signal.SIGTERM)
        wait_until(lambda: len(node.events("draining")) == 2, "both to drain")
        yield from rest

    assert client.bytestream.Write(slowly(), timeout=60).committed_size == len(BLOB)
    assert node.wait_exit() == 0


def test_what_a_client_hears_of_its_upload_never_falls(shared: CrewNode, clients: Connect) -> None:
    blob = os.urandom(200_000)
    first, second = on_each_worker(shared, clients)
    name = first.upload_name(digest_of(blob))
    broken = list(write_requests(name, blob, chunk_bytes=50_000))[:2]
    assert outcome(lambda: first.bytestream.Write(iter(broken), timeout=60)) is not (
        grpc.StatusCode.OK
    )
    assert [client.write_status(name) for client in (first, second, first)] == [(0, False)] * 3
    # Whom it meets then is all the same.
    assert second.write(blob, name=name) == len(blob)
    assert [client.write_status(name) for client in (first, second)] == [(len(blob), True)] * 2
    assert first.write(blob, name=name) == len(blob)
    assert first.read(digest_of(blob)) == blob


def test_a_parent_that_is_killed_takes_its_workers_along(node: CrewNode) -> None:
    node.kill()  # and waits until nothing of it is left
    assert list(node.data_dir.glob("run/*")) == []  # they ended by themselves, and cleanly


def test_a_reload_reaches_every_worker(shared: CrewNode) -> None:
    done = federation("reload", "--data-dir", str(shared.data_dir))
    assert done.returncode == 0, done.stderr
    assert sorted(event["worker"] for event in shared.events("reloaded")) == [1, 2]
    shared.signal(signal.SIGHUP)
    wait_until(lambda: len(shared.events("reloaded")) == 4, "both to read again")


def test_a_port_that_another_node_has_is_refused_also_if_both_would_share(
    tmp_path: Path, shared: CrewNode
) -> None:
    over = {"listeners": [{"address": shared.address, "push": True}]}
    with CrewNode(tmp_path / "other", over, name="other") as other:
        other.launch()
        assert other.wait_exit() == 3
        assert "Address already in use" in other.log
    assert not (tmp_path / "other").exists()


def test_a_signal_during_the_start_ends_all_with_0(tmp_path: Path) -> None:
    with CrewNode(tmp_path / "data") as node:
        node.launch()
        children = f"/proc/{node.pid}/task/{node.pid}/children"
        wait_until(lambda: len(Path(children).read_text().split()) == 2, "two workers to begin")
        node.signal(signal.SIGTERM)
        assert node.wait_exit() == 0


def test_a_data_directory_that_is_refused_ends_all_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with CrewNode(tmp_path / "data") as node:
        node.launch()
        assert node.wait_exit() == 3
        assert "cannot be used" in node.log


@pytest.mark.heavy
def test_the_old_pages_two_processes_beside_workers(tmp_path: Path, clients: Connect) -> None:
    data_dir = tmp_path / "data"
    pull = [sys.executable, "-m", "federation", "serve"]
    push = CrewNode(data_dir)
    with (
        push.start(),
        Node(
            data_dir, {"listeners": [{"address": "127.0.0.1:0"}]}, program=pull, name="pull"
        ) as alone,
    ):
        before = {facts["pid"] for facts in push.workers()}
        alone.launch()
        wait_until(lambda: len(list(data_dir.glob("run/*.json"))) == 3, "the third")
        address = next(
            facts["listeners"][0] for facts in _all(data_dir) if facts["pid"] not in before
        )
        clients(push.address).write(BLOB)
        assert clients(address).read(digest_of(BLOB)) == BLOB


def _all(data_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in data_dir.glob("run/*.json")]


def test_status_shows_every_worker(shared: CrewNode) -> None:
    done = federation("status", "--data-dir", str(shared.data_dir), "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)["processes"]
    assert sorted(each["worker"] for each in shown) == [1, 2]
    assert {each["http-of-all"] for each in shown} == {shared.http}
    assert {each["status"] for each in shown} == {"serving"}


def test_the_worker_command_alone_says_what_to_do_instead() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "federation", "worker"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "federation serve" in done.stderr
