"""`federation offline`: it reaches every process, outlives them, and says where it comes from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import digest_of
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client


def run(data_dir: Path, *args: str, code: int = 0) -> dict[str, Any]:
    return command("offline", *args, "--data-dir", str(data_dir), code=code)


def command(*args: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*args, "--json"])
    assert done.exit_code == code, done.output
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def about(node: Node) -> dict[str, Any]:
    code, text = node.http_get("/")
    assert code == 200
    facts: dict[str, Any] = json.loads(text)
    return facts


def wait_for(node: Node, *, offline: bool) -> None:
    wait_until(lambda: about(node)["offline"] is offline, f"offline is {offline}")


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Node]:
    with serve(tmp_path / "upstream", name="upstream") as node:
        yield node


def settings(address: str = "127.0.0.1:1", **more: object) -> dict[str, object]:
    return {"upstreams": [{"name": "hq", "url": f"grpc://{address}"}], **more}


def test_it_is_switched_while_running_in_every_process_and_kept_over_a_restart(
    tmp_path: Path, upstream: Node
) -> None:
    data_dir = tmp_path / "data"
    with Client(upstream.address) as there:
        for data in (b"first", b"second"):
            there.write(data)
    node = Node(data_dir, settings(upstream.address)).start()
    second = Node(data_dir, settings(upstream.address), name="second").start()
    with node, second:
        facts = run(data_dir, "on")
        assert (facts["offline"], facts["switch"]) == (True, "on")
        assert [each["offline"] for each in facts["processes"]] == [True, True]
        for each in (node, second):
            wait_for(each, offline=True)
            assert about(each)["offline-because"] == ["switch"]
            with Client(each.address) as client:
                assert client.batch_read([digest_of(b"first")]) == {}
        assert node.stop() == 0
        assert node.log.count("offline_switched") == 1

        node.start()
        assert about(node)["offline"] is True
        with Client(node.address) as client:
            assert client.batch_read([digest_of(b"first")]) == {}
            assert upstream.metrics().value("federation_requests_total") == 2  # the two writes
            assert run(data_dir, "off")["switch"] == "off"
            wait_for(node, offline=False)
            wait_for(second, offline=False)
            assert client.batch_read([digest_of(b"first")]) == {digest_of(b"first"): b"first"}


def test_without_an_argument_it_shows_the_state_and_changes_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serve(data_dir, settings()) as node:
        facts = run(data_dir)
        assert (facts["offline"], facts["switch"], facts["switched-on-at"]) == (False, "off", None)
        (process,) = facts["processes"]
        assert (process["pid"], process["offline"], process["offline-because"]) == (
            node.pid,
            False,
            [],
        )
        shown = CliRunner().invoke(main, ["offline", "--data-dir", str(data_dir)]).stdout
        assert "offline: no\nswitch: off\n" in shown


def test_offline_in_the_configuration_stays_whatever_the_switch_says(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serve(data_dir, settings(offline=True)) as node:
        facts = command("offline", "off", "--config", str(node.config_path))
        assert (facts["offline"], facts["switch"], facts["config"]) == (
            True,
            "off",
            "offline: true",
        )
        assert about(node)["offline-because"] == ["config"]
        assert facts["processes"][0]["offline"] is True


def test_it_can_be_switched_while_nothing_runs_and_is_kept_by_a_rebuild(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serve(data_dir, settings()) as node:
        node.stop()
    assert run(data_dir, "on")["processes"] == []
    command("rebuild", "--data-dir", str(data_dir))
    with serve(data_dir, settings()) as node:
        assert about(node)["offline"] is True
        status = command("status", "--data-dir", str(data_dir))
        assert status["offline-switch"] == "on"
        assert status["processes"][0]["offline"] is True


def test_a_directory_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    assert run(tmp_path / "none", "on", code=3)["exit-code"] == 3
    assert not (tmp_path / "none").exists()


def test_another_word_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["offline", "maybe", "--data-dir", str(tmp_path)])
    assert done.exit_code == 2
