"""status, verify, gc and rebuild: what they print, and which exit code they end with."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import federation, serve
from tests.support.process_client import Client

LARGE = 300_000  # more than fits the catalogue: such a blob is a file


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with one small blob and one in a file, served by nobody."""
    data_dir = tmp_path / "data"
    with serve(data_dir) as node, Client(node.address) as client:
        client.write(b"small")
        client.write(b"x" * LARGE)
        assert node.stop() == 0
    return data_dir


def run(command: str, data_dir: Path, *args: str, code: int = 0) -> dict[str, Any]:
    done = federation(command, "--data-dir", str(data_dir), "--json", *args)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def damage(data_dir: Path) -> None:
    (path,) = [p for p in data_dir.glob("blobs/*/*") if p.stat().st_size == LARGE]
    path.write_bytes(b"y" * LARGE)


def test_status_without_a_node(data_dir: Path) -> None:
    facts = run("status", data_dir)
    assert (facts["blobs"], facts["bytes"], facts["processes"]) == (2, LARGE + 5, [])


def test_status_beside_a_node_names_its_addresses(data_dir: Path) -> None:
    with serve(data_dir) as node:
        (process,) = run("status", data_dir)["processes"]
        assert (process["pid"], process["listeners"]) == (node.pid, node.addresses)
        assert process["http"] == node.http
        shown = federation("status", "--data-dir", str(data_dir), "--all").stdout
        assert f"listeners: {node.address}" in shown
        assert f"bytes: {LARGE + 5} (293.0K)" in shown


def test_status_of_a_killed_node_lists_no_process(data_dir: Path) -> None:
    with serve(data_dir) as node:
        node.kill()
    assert run("status", data_dir)["processes"] == []


@pytest.mark.parametrize("command", ["status", "verify", "gc", "rebuild"])
def test_a_directory_that_is_not_there_is_refused_and_not_made(
    tmp_path: Path, command: str
) -> None:
    facts = run(command, tmp_path / "none", code=3)
    assert facts["exit-code"] == 3
    assert str(tmp_path / "none") in facts["error"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["status", "verify", "gc", "rebuild"])
def test_a_file_and_a_directory_together_are_refused(tmp_path: Path, command: str) -> None:
    done = federation(command, "--config", "f", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (
        2,
        "federation: give either --config or --data-dir\n",
    )


def test_the_configuration_names_the_directory(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "node.yaml").write_text("data-dir: data\n")
    done = federation("status", "--config", str(tmp_path / "node.yaml"), "--json")
    assert json.loads(done.stdout)["data-dir"] == str(data_dir)


def test_verify_finds_nothing_wrong(data_dir: Path) -> None:
    facts = run("verify", data_dir)
    assert (facts["ok"], facts["blobs"], facts["damaged"]) == (True, 2, [])


def test_o20_verify_finds_damage_beside_a_node_and_ends_with_1(data_dir: Path) -> None:
    with serve(data_dir):
        damage(data_dir)
        facts = run("verify", data_dir, code=1)
        assert (facts["ok"], facts["damaged-blobs"]) == (False, 1)
        assert run("verify", data_dir, code=1)["damaged-blobs"] == 1  # nothing was changed
        assert run("verify", data_dir, "--repair", code=1)["damaged-blobs-set-aside"]
        assert run("verify", data_dir)["ok"]


def test_verify_prints_for_people_too(data_dir: Path) -> None:
    damage(data_dir)
    done = federation("verify", "--data-dir", str(data_dir))
    assert done.returncode == 1
    assert "damaged-blobs: 1\n" in done.stdout


def test_gc_says_what_leases_hold_back(data_dir: Path) -> None:
    facts = run("gc", data_dir, "--to", "1K", code=1)
    assert facts["freed-bytes"] == 0
    assert facts["held-back"]


def test_gc_has_nothing_to_do_below_the_quota(data_dir: Path) -> None:
    assert run("gc", data_dir)["freed-bytes"] == 0


def test_gc_refuses_a_size_that_is_none(data_dir: Path) -> None:
    done = federation("gc", "--data-dir", str(data_dir), "--to", "some")
    assert done.returncode == 2
    assert "a size is a whole number" in done.stderr


def test_rebuild_brings_back_what_a_lost_catalogue_held_in_files(data_dir: Path) -> None:
    for path in data_dir.glob("catalogue.sqlite*"):
        path.unlink()
    facts = run("rebuild", data_dir)
    assert (facts["files-verified"], facts["files-quarantined"]) == (1, 0)
    with serve(data_dir) as node, Client(node.address) as client:
        assert client.write(b"x" * LARGE) == LARGE
    assert run("status", data_dir)["blobs"] == 1


def test_rebuild_of_a_damaged_file_ends_with_1(data_dir: Path) -> None:
    damage(data_dir)
    assert run("rebuild", data_dir, code=1)["files-quarantined"] == 1


def test_o20_rebuild_is_refused_beside_a_node(data_dir: Path) -> None:
    with serve(data_dir) as node:
        facts = run("rebuild", data_dir, code=3)
        assert str(node.pid) in facts["error"]
        assert node.http_get("/readyz")[0] == 200
