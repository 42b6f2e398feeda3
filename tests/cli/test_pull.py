"""federation pull: closures are here before anybody asks, whether or not a node serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.core.digest import Digest, digest_of
from tests.support.polling import wait_until
from tests.support.process import Node, environment, federation, serve
from tests.support.process_client import Client, action_result

SMALL, LARGE = os.urandom(20_000), os.urandom(3_000_000)
ACTION, URI = digest_of(b"action"), "urn:test:artifact"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Node]:
    """A node with an action result of two blobs, an asset of one of them, and one blob more."""
    with serve(tmp_path / "hub", name="hub") as node, Client(node.address) as client:
        for data in (SMALL, LARGE):
            client.write(data)
        digests = [digest_of(SMALL), digest_of(LARGE)]
        files = [(f"file-{at}", digest) for at, digest in enumerate(digests)]
        client.update_action_result(ACTION, action_result(files))
        client.push_blob(URI, digests[1])
        client.write(b"alone")
        yield node


@pytest.fixture
def config(tmp_path: Path, hub: Node) -> Path:
    return write_config(tmp_path, hub)


def write_config(tmp_path: Path, hub: Node, **more: object) -> Path:
    path = tmp_path / "here.yaml"
    upstream = {"name": "hub", "url": f"grpc://{hub.address}"}
    listener = {"address": "127.0.0.1:0", "push": True}
    settings = {
        "data-dir": str(tmp_path / "here"),
        "listeners": [listener],
        "http": {"address": "127.0.0.1:0"},
        "upstreams": [upstream],
        **more,
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def pull(config: Path, *args: str, code: int = 0, **kwargs: Any) -> dict[str, Any]:
    done = federation("pull", "--config", str(config), "--json", *args, **kwargs)
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def held(config: Path, *digests: Digest) -> None:
    for digest in digests:
        done = federation("explain", "--data-dir", str(config.with_suffix("")), str(digest))
        assert done.returncode == 0, done.stdout


def status(config: Path) -> dict[str, Any]:
    done = federation("status", "--data-dir", str(config.with_suffix("")), "--json")
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_without_a_node_everything_is_here_for_the_one_that_is_started_next(
    tmp_path: Path, config: Path, hub: Node
) -> None:
    alone = digest_of(b"alone")
    facts = pull(config, URI, str(alone), "--action", str(ACTION))
    assert facts == {
        "names": 3,
        "whole": 3,
        "not-found": 0,
        "incomplete": 0,
        "brought-blobs": 3,
        "brought-bytes": len(SMALL) + len(LARGE) + 5,
        "problems": [],
    }
    assert hub.stop() == 0
    with Node(tmp_path / "here", args=["--config", str(config)]) as node:
        node.start()
        with Client(node.address) as client:
            assert client.fetch_blob(URI) == digest_of(LARGE)
            assert client.get_action_result(ACTION) is not None
            assert client.read(digest_of(LARGE)) == LARGE
            assert client.read(alone) == b"alone"


def test_beside_a_node_its_clients_find_it_at_once(tmp_path: Path, config: Path, hub: Node) -> None:
    with Node(tmp_path / "here", args=["--config", str(config)]) as node:
        node.start()
        assert pull(config, "--action", str(ACTION))["brought-blobs"] == 2
        assert hub.stop() == 0
        with Client(node.address) as client:
            assert client.find_missing([digest_of(SMALL), digest_of(LARGE)]) == set()
            assert client.get_action_result(ACTION) is not None


def test_a_list_is_read_and_what_is_not_found_is_listed(tmp_path: Path, config: Path) -> None:
    path, absent = tmp_path / "list.txt", digest_of(b"absent")
    path.write_text(f"# names\n\n{URI}\naction {ACTION}\n{absent}\nurn:test:none\n")
    facts = pull(config, "--from-list", str(path), code=1)
    assert (facts["names"], facts["whole"], facts["not-found"]) == (4, 2, 2)
    assert {each["name"] for each in facts["problems"]} == {str(absent), "urn:test:none"}
    facts = pull(config, "--from-list", "-", "--resume", input=f"{URI}\n")
    assert (facts["whole"], facts["brought-blobs"]) == (1, 0)


def test_people_are_shown_the_same(config: Path) -> None:
    done = federation("pull", "--config", str(config), URI, "urn:test:none")
    assert done.returncode == 1
    assert "whole: 1\n" in done.stdout
    assert "name: urn:test:none\n" in done.stdout


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "give a URI, a DIGEST, --action or --from-list"),
        (["nonsense"], "'nonsense' cannot be fetched"),
        ([URI, "--limit-rate", "1K"], "at least 64K"),
        ([URI, "--window", "evening"], "a window is HH:MM-HH:MM"),
        ([URI, "--qualifier", "x"], "not NAME=VALUE"),
        (["--action", "urn:a"], "is not HASH/SIZE"),
    ],
)
def test_wrong_usage_is_explained(config: Path, args: list[str], text: str) -> None:
    done = federation("pull", "--config", str(config), *args)
    assert done.returncode == 2
    assert text in done.stderr
    assert not config.with_suffix("").exists()


def test_a_list_with_a_wrong_line_changes_nothing(tmp_path: Path, config: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{URI}\nnonsense\n")
    facts = pull(config, "--from-list", str(path), code=2)
    assert "line 2: 'nonsense'" in facts["error"]
    assert pull(config, "--from-list", str(tmp_path / "none"), code=3)["exit-code"] == 3


def test_without_upstreams_or_offline_it_says_so(tmp_path: Path, hub: Node) -> None:
    assert "no upstreams" in pull(write_config(tmp_path, hub, upstreams=[]), URI, code=2)["error"]
    config = write_config(tmp_path, hub, offline=True)
    assert "this node is offline" in pull(config, URI, code=3)["error"]


def test_what_an_upstream_does_not_have_whole_is_asked_for_only_once_it_is_up(
    config: Path, hub: Node
) -> None:
    assert hub.stop() == 0
    assert pull(config, URI, code=1)["not-found"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_what_has_come_and_the_next_run_goes_on(
    config: Path, hub: Node, number: signal.Signals
) -> None:
    lasting = os.urandom(30_000_000)  # for eight minutes at the lowest rate
    with Client(hub.address) as client:
        client.write(lasting)
    names = [str(digest_of(data)) for data in (SMALL, lasting)]
    command = [sys.executable, "-m", "federation", "pull", "--config", str(config), "--json"]
    if number == signal.SIGINT:  # which a suite in the background of a shell hands down as ignored
        command = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(
        [*command, "--limit-rate", "64K", *names],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )

    def small_is_here() -> bool:
        done = federation("explain", "--data-dir", str(config.with_suffix("")), names[0])
        return done.returncode == 0

    with process:
        wait_until(small_is_here, "the small blob has come", every_s=0.2)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    facts = json.loads(out)
    assert (process.returncode, facts.get("interrupted")) == (130, True), facts
    held(config, digest_of(SMALL))
    # A process that was killed would keep eviction back until its leases have ended.
    assert status(config)["eviction-held-until-ms"] is None
    facts = pull(config, *names)
    assert (facts["whole"], facts["brought-blobs"]) == (2, 1)


def test_a_node_pulls_what_its_schedule_names_by_itself(tmp_path: Path, hub: Node) -> None:
    schedule = [{"name": "always", "window": "00:00-00:00", "names": [f"action {ACTION}"]}]
    config = write_config(tmp_path, hub, pull={"schedule": schedule})
    with Node(tmp_path / "here", args=["--config", str(config)]) as node:
        node.start()

        def shown() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(node.http_get("/")[1])["schedule"][0]
            return found

        wait_until(lambda: shown()["last-ended"], "the pull has ended")
        assert (shown()["state"], shown()["whole"], shown()["problems"]) == ("waiting", 1, [])
        assert hub.stop() == 0
        with Client(node.address) as client:
            assert client.find_missing([digest_of(SMALL), digest_of(LARGE)]) == set()
        assert node.metrics().value("federation_scheduled_pull_names_total", result="whole") == 1
        assert "scheduled_pull_ended" in node.log
