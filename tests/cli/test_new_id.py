"""`federation new-id`: a copy of a data directory becomes a node of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import digest_of
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client


def new_id(data_dir: Path, *, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["new-id", "--data-dir", str(data_dir), "--json"])
    assert done.exit_code == code, done.output
    facts: dict[str, Any] = json.loads(done.stdout) if code == 0 else {"error": done.output}
    return facts


def state_of_peer(node: Node) -> str:
    code, text = node.http_get("/")
    assert code == 200
    peers = json.loads(text)["peers"]  # none until replication has begun
    return str(peers[0]["state"]) if peers else ""


def test_a_copy_is_taken_for_the_node_itself_until_it_has_an_id_of_its_own(tmp_path: Path) -> None:
    here, copy = tmp_path / "here", tmp_path / "copy"
    with serve(here) as node, Client(node.address) as client:
        client.write(b"from before")
        assert node.stop() == 0
    shutil.copytree(here, copy)
    clone = Node(copy, name="clone").start()
    with clone:
        peers = {"peers": [{"name": "clone", "url": f"http://{clone.address}"}]}
        with serve(here, peers) as node:
            wait_until(lambda: state_of_peer(node) == "itself", "its state")
            wait_until(lambda: "federation new-id" in node.log, "the hint")
        assert "stop that first" in new_id(copy, code=3)["error"]
        assert clone.stop() == 0
        done = new_id(copy)
        assert done["node-id-before"] != done["node-id"]
        clone.start()
        peers = {"peers": [{"name": "clone", "url": f"http://{clone.address}"}]}
        with serve(here, peers) as node, Client(node.address) as client:
            client.write(b"from now")
            with Client(clone.address) as there:
                wait_until(lambda: not there.find_missing([digest_of(b"from now")]), "the new blob")
                assert there.read(digest_of(b"from before")) == b"from before"


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in new_id(tmp_path / "none", code=3)["error"]
    assert "no catalogue" in new_id(tmp_path, code=3)["error"]
