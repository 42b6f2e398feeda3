"""`federation reload` and SIGHUP: what changes at once, what is named; all of it or nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import digest_of
from federation.storage.admin.operations import send
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client


def reload(node: Node, *, code: int = 0) -> dict[str, Any]:
    """Run the command; return what the one process said."""
    done = CliRunner().invoke(main, ["reload", "--data-dir", str(node.data_dir), "--json"])
    assert done.exit_code == code, done.output
    (process,) = json.loads(done.stdout)["processes"]
    return dict(process)


def rewrite(node: Node, **keys: Any) -> None:
    """Change keys of the file that the node was started with."""
    settings = yaml.safe_load(node.config_path.read_text())
    for key, value in keys.items():
        settings[key.replace("_", "-")] = value
    node.config_path.write_text(yaml.safe_dump(settings))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with serve(tmp_path / "data") as node:
        yield node


def test_nothing_changed_is_nothing_done(node: Node) -> None:
    said = reload(node)
    assert said["changed"] == said["needs-restart"] == []
    assert said["error"] is None
    assert said["config"] == str(node.config_path)


def test_o07_the_quota_and_the_log_level_change_at_once(node: Node) -> None:
    rewrite(node, storage={"quota": "100M"}, log={"level": "debug", "format": "console"})
    assert reload(node)["changed"] == ["storage.quota", "log.level"]

    def quota() -> float:
        return node.metrics().value("federation_quota_bytes")

    wait_until(lambda: quota() == 100 * 2**20, "the new quota")
    with Client(node.address) as client:
        client.capabilities()
    wait_until(lambda: "GetCapabilities" in node.log, "a line at debug")


def test_o07_an_upstream_comes_changes_and_goes_without_a_failed_call(tmp_path: Path) -> None:
    there = [serve(tmp_path / name, name=name) for name in ("one", "two")]
    with there[0] as one, there[1] as two, serve(tmp_path / "data") as node:
        blobs = [b"blob %d" % number for number in range(3)]
        with Client(one.address) as at_one, Client(two.address) as at_two:
            at_one.batch_update(blobs[:1])
            at_two.batch_update(blobs[1:])
        asking, stop = _ask_without_end(node)
        with Client(node.address) as client:
            assert client.batch_read([digest_of(blobs[0])]) == {}
            rewrite(node, upstreams=[{"name": "hq", "url": f"grpc://{one.address}"}])
            assert reload(node)["changed"] == ["upstreams"]
            assert client.read(digest_of(blobs[0])) == blobs[0]
            rewrite(node, upstreams=[{"name": "hq", "url": f"grpc://{two.address}"}])
            reload(node)
            assert client.read(digest_of(blobs[1])) == blobs[1]
            _, text = node.http_get("/")
            assert [each["url"] for each in json.loads(text)["upstreams"]] == [
                f"grpc://{two.address}"
            ]
            rewrite(node, upstreams=[])
            reload(node)
            assert client.batch_read([digest_of(blobs[2])]) == {}
            assert client.read(digest_of(blobs[1])) == blobs[1], "what was pulled stays"
        stop.set()
        asking.join(10)
        assert asking.failed == []
        assert asking.calls > 3
        assert 'federation_upstream_up{upstream="hq"}' not in node.http_get("/metrics")[1]


class _Asking(threading.Thread):
    """Calls all the time, and notes what failed."""

    def __init__(self, node: Node, stop: threading.Event) -> None:
        super().__init__()
        self._node = node
        self._stop_asking = stop
        self.calls = 0
        self.failed: list[grpc.RpcError] = []

    def run(self) -> None:
        with Client(self._node.address) as client:
            while not self._stop_asking.is_set():
                try:
                    client.batch_update([b"call %d" % self.calls])
                except grpc.RpcError as error:
                    self.failed.append(error)
                self.calls += 1


def _ask_without_end(node: Node) -> tuple[_Asking, threading.Event]:
    stop = threading.Event()
    asking = _Asking(node, stop)
    asking.start()
    return asking, stop


def test_o07_offline_in_the_file_is_followed(node: Node) -> None:
    rewrite(node, offline=True)
    assert reload(node)["changed"] == ["offline"]
    assert json.loads(node.http_get("/")[1])["offline-because"] == ["config"]


def test_what_cannot_change_is_named_each_time_and_the_rest_is_taken(node: Node) -> None:
    rewrite(node, node_name="other", http={"address": None}, limits={"drain": "1s", "threads": 9})
    for changed in (["limits.drain"], []):
        said = reload(node, code=1)
        assert said["changed"] == changed
        assert said["needs-restart"] == ["node-name", "limits.threads", "http.address"]
    assert node.http_get("/healthz")[0] == 200
    assert "restart_needed" in node.log


BAD: dict[str, tuple[str, str]] = {
    "syntax": ("listeners: [", "while parsing"),
    "unknown key": ("quota: 1G", "quota: unknown key"),
    "wrong type": ("storage: {quota: [1]}", "a size is"),
    "negative quota": ("storage: {quota: -1}", "storage.quota"),
}


@pytest.mark.parametrize("name", BAD)
def test_o05_a_bad_file_changes_nothing(node: Node, name: str) -> None:
    text, says = BAD[name]
    node.config_path.write_text(f"log: {{level: debug}}\n{text}\n")
    said = reload(node, code=2)
    assert says in said["error"]
    assert str(node.config_path) in said["error"]
    assert said["changed"] == []
    assert "reload_refused" in node.log
    with Client(node.address) as client:
        client.capabilities()
    assert "GetCapabilities" not in node.log, "the level of the bad file was taken"


def test_o05_a_file_that_is_gone_changes_nothing(node: Node) -> None:
    node.config_path.unlink()
    assert "cannot be read" in reload(node, code=2)["error"]


def test_a_bad_file_leaves_what_waits_for_a_restart_named(node: Node) -> None:
    rewrite(node, node_name="other")
    reload(node, code=1)
    rewrite(node, nonsense=1)
    assert reload(node, code=2)["needs-restart"] == ["node-name"]


def test_o03_a_hundred_hangups_are_served_as_a_few(node: Node) -> None:
    for _ in range(100):
        node.signal(signal.SIGHUP)
    assert reload(node)["error"] is None
    assert 1 <= node.log.count("reloaded") <= 101
    with Client(node.address) as client:
        client.capabilities()


def test_nobody_to_ask_is_said(tmp_path: Path) -> None:
    with serve(tmp_path / "data") as node:
        assert node.stop() == 0
    done = CliRunner().invoke(main, ["reload", "--data-dir", str(tmp_path / "data")])
    assert done.exit_code == 3
    assert "no process serves" in done.stderr


def test_each_process_reads_the_file_it_was_started_with(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Node(data_dir, name="one").start() as one, Node(data_dir, name="two").start():
        rewrite(one, limits={"drain": "2s"})
        done = CliRunner().invoke(main, ["reload", "--data-dir", str(data_dir), "--json"])
        said = {Path(p["config"]).stem: p["changed"] for p in json.loads(done.stdout)["processes"]}
        assert said == {"one": ["limits.drain"], "two": []}


def test_a_file_that_names_another_process_has_it_not_signalled(node: Node, tmp_path: Path) -> None:
    """Root runs the command, and the file is the node's user's to write."""
    (path,) = (node.data_dir / "run").glob("*.lock")
    marker = tmp_path / "signalled"
    script = (
        "import signal, sys, pathlib, time\n"
        "def told(*_): pathlib.Path(sys.argv[1]).touch()\n"
        "signal.signal(signal.SIGHUP, told)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(marker)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        victim.stdout.readline()
        told = send(node.data_dir, path.stem, victim.pid, signal.SIGHUP)
        assert told is not None
        assert "does not serve" in told
        assert victim.poll() is None
    assert victim.returncode == 0
    assert not marker.exists()


@pytest.mark.parametrize("pid", [0, -1, "1", None, 2**22 + 1])
def test_a_file_that_names_no_process_has_nobody_signalled(node: Node, pid: object) -> None:
    (path,) = (node.data_dir / "run").glob("*.lock")
    assert send(node.data_dir, path.stem, pid, signal.SIGHUP) is not None
    assert send(node.data_dir, path.stem, node.pid, signal.SIGHUP) is None
