"""What people ask for about peers, done by a node that runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import Digest, digest_of
from federation.storage.admin import known_peers
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client

BLOBS = [b"one", b"two", b"three" * 20_000]
DIGESTS = [digest_of(data) for data in BLOBS]


def run(*args: object, code: int = 0) -> Any:
    done = CliRunner().invoke(main, [*map(str, args), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def peer(node: Node, name: str = "there") -> dict[str, Any]:
    peers = run("status", "--config", node.config_path)["peers"]
    return next((each for each in peers if each["name"] == name), {})


def caught_up(node: Node) -> bool:
    facts = peer(node)
    if facts.get("state") != "following" or facts["lag-objects"]:
        return False
    # What a process knows is written down twice a second.
    known = known_peers(node.data_dir)
    return bool(known) and known[0].main.cursor == len(BLOBS)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Node]:
    with serve(tmp_path / "there", name="there") as node:
        yield node


@pytest.fixture
def here(tmp_path: Path, there: Node) -> Iterator[Node]:
    """A node that sends to it what people ask for alone; so it is told of nothing by itself."""
    rules = [{"when": "manual"}]
    settings = {"peers": [{"name": "there", "url": f"grpc://{there.address}", "rules": rules}]}
    with serve(tmp_path / "here", settings, name="here") as node, Client(node.address) as client:
        for data in BLOBS:
            client.write(data)
        wait_until(lambda: caught_up(node), "they have met")
        yield node


def missing(node: Node) -> set[Digest]:
    with Client(node.address) as client:
        return client.find_missing(DIGESTS)


def test_reconcile_sends_what_waits_for_people_and_says_when_it_is_done(
    there: Node, here: Node
) -> None:
    assert missing(there) == set(DIGESTS)
    facts = run("reconcile", "there", "--wait", "--config", here.config_path)
    assert missing(there) == set()
    assert (facts["sent-objects"], facts["parked"]) == (len(BLOBS), 0)
    again = run("reconcile", "there", "--wait", "--config", here.config_path)
    assert again["sent-objects"] == 0


def test_r05_what_a_peer_refuses_is_parked_with_its_reason_and_tried_again_on_request(
    tmp_path: Path,
) -> None:
    bound = {"storage": {"max-blob": "64K"}}
    with serve(tmp_path / "small", bound, name="small") as small:
        settings = {"peers": [{"name": "there", "url": f"grpc://{small.address}"}]}
        with serve(tmp_path / "here", settings, name="here") as here:
            with Client(here.address) as client:
                client.write(b"y" * 100_000)
                client.write(BLOBS[0])
            wait_until(lambda: peer(here).get("parked") == 1, "it is parked")
            (row,) = run("parked", "--config", here.config_path)["parked"]
            assert row["object"] == str(digest_of(b"y" * 100_000))
            assert str(64 * 1024) in row["reason"]
            assert missing(small) == set(DIGESTS[1:])  # the other one is there
            assert run("parked", "retry", "--config", here.config_path)["retry-asked"] == 1

            def tried_again() -> bool:
                (now,) = run("parked", "--config", here.config_path)["parked"]
                return now["tries"] > row["tries"] and not now["retry-asked"]

            wait_until(tried_again, "it is tried again")
            shown = CliRunner().invoke(main, ["status", "--config", str(here.config_path)]).stdout
            assert "there: 1 objects are parked: federation parked --peer there" in shown


def test_a_peer_taken_out_by_a_reload_is_kept_in_mind_until_it_is_dropped(here: Node) -> None:
    refused = run("drop-peer", "there", "--data-dir", here.data_dir, code=2)
    assert f"process {here.pid} has there in its configuration" in refused["error"]
    settings = yaml.safe_load(here.config_path.read_text())
    here.config_path.write_text(yaml.safe_dump({**settings, "peers": []}))
    here.signal(signal.SIGHUP)
    assert peer(here)["configured"] is False  # the file says so; soon the process does, too
    note = "there: is no longer in the configuration: federation drop-peer there"

    def is_told() -> bool:
        told = CliRunner().invoke(main, ["status", "--data-dir", str(here.data_dir)])
        return note in told.stdout

    wait_until(is_told, "it is left out")
    assert run("drop-peer", "there", "--data-dir", here.data_dir)["dropped"] == "there"
    wait_until(lambda: peer(here) == {}, "it is forgotten")
