"""What `status` learns from running processes, and that none of them can make it fail."""

import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from federation.cli import main, processes
from federation.config.model import StorageConfig
from federation.storage.admin.operations import DirectoryOperations
from tests.support.polling import wait_until
from tests.support.process import serve


def run(data_dir: Path, *args: str) -> str:
    done = CliRunner().invoke(main, ["status", "--data-dir", str(data_dir), *args])
    assert done.exit_code == 0, done.output
    return done.stdout


def only_process(data_dir: Path) -> dict[str, Any]:
    process: dict[str, Any]
    (process,) = json.loads(run(data_dir, "--json"))["processes"]
    return process


def answering(data_dir: Path) -> dict[str, Any] | None:
    """What the only process answered; None: not in time, as on a busy machine."""
    process = only_process(data_dir)
    return None if "not-known" in process else process


UPSTREAM = {"upstreams": [{"name": "hq", "url": "grpc://127.0.0.1:1"}]}


def test_what_only_the_process_knows_is_shown_for_people_and_scripts(tmp_path: Path) -> None:
    with serve(tmp_path / "data", UPSTREAM) as node:
        process = wait_until(lambda: answering(node.data_dir), "its answer within a second")
        assert (process["pid"], process["status"]) == (node.pid, "serving")
        assert process["listeners"] == node.addresses
        (upstream,) = process["upstreams"]
        assert (upstream["name"], upstream["state"], upstream["hits"]) == ("hq", "untried", 0)
        assert upstream["last-answer-s-ago"] is None
        shown = run(node.data_dir, "--all")
        assert "- name: hq\n        url: grpc://127.0.0.1:1\n        state: untried\n" in shown


def test_a_process_that_hangs_costs_a_second_and_is_shown_as_such(tmp_path: Path) -> None:
    with serve(tmp_path / "data", UPSTREAM) as node:
        node.pause()
        process = only_process(node.data_dir)
        node.resume()
        assert process["not-known"] == "no answer within 1 s"
        assert process["pid"] == node.pid


def test_a_process_without_an_http_address_is_asked_by_its_socket(tmp_path: Path) -> None:
    with serve(tmp_path / "data", {"http": {"address": None}}) as node:
        process = wait_until(lambda: answering(node.data_dir), "its answer within a second")
        assert (process["status"], process["http"]) == ("serving", None)


def test_a_process_that_has_not_said_where_it_can_be_asked_is_shown_as_such(
    tmp_path: Path,
) -> None:
    (facts,) = processes.facts_of_processes(Announced(tmp_path, StorageConfig(), ""))
    assert facts["not-known"] == "it has not said yet where it can be asked"


class Announced(DirectoryOperations):
    """One process says that it has HTTP at an address."""

    def __init__(self, data_dir: Path, settings: StorageConfig, address: str) -> None:
        super().__init__(data_dir, settings)
        self._address = address

    def processes(self) -> list[dict[str, Any]]:
        return [{"pid": 1, "http": self._address}]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "its answer is not from a node"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "Expecting property name"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2**21), "its answer has more than 1048576 bytes"),
        (b"SSH-2.0-server\r\n\r\n", "Bad status line"),
    ],
)
def test_whatever_answers_at_the_address_is_survived(
    tmp_path: Path, answer: bytes, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                try:
                    connection.sendall(answer)
                except ConnectionError:
                    return  # it did not want the rest

        thread = threading.Thread(target=answer_once)
        thread.start()
        (facts,) = processes.facts_of_processes(Announced(tmp_path, StorageConfig(), address))
        thread.join(20)
        assert reason in facts["not-known"]


def without_a_worry(data_dir: Path) -> list[str] | None:
    """What is shown of a node that answers in time."""
    shown = run(data_dir).splitlines()
    return shown if shown[7] == "attention: nothing" else None


def test_eight_lines_come_first_and_the_details_only_when_asked_for(tmp_path: Path) -> None:
    with serve(tmp_path / "data", UPSTREAM) as node:
        shown = wait_until(lambda: without_a_worry(node.data_dir), "its answer within a second")
        labels = [line.partition(":")[0] for line in shown]
        assert labels == [
            "node", "uptime", "held", "hit rate", "requests", "upstreams", "peers", "attention",
        ]  # fmt: skip
        assert shown[5] == "upstreams: hq untried"
        in_full = run(node.data_dir, "--all").splitlines()
        assert in_full[5] == shown[5]
        assert "processes:" in in_full


def keys_of(facts: Any) -> set[str]:
    if isinstance(facts, dict):
        return set(facts).union(*map(keys_of, facts.values()))
    return set().union(*map(keys_of, facts)) if isinstance(facts, list) else set()


def test_keys_are_spelled_in_one_way(tmp_path: Path) -> None:
    with serve(tmp_path / "data", {**UPSTREAM, "peers": UPSTREAM["upstreams"]}) as node:
        wait_until(lambda: answering(node.data_dir), "its answer within a second")
        keys = keys_of(json.loads(run(node.data_dir, "--json")))
    assert {"node-id", "free-bytes", "held-bytes", "lag-objects"} <= keys
    assert {key for key in keys if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key)} == set()
