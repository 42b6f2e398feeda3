"""`federation purge`: what it chooses, asks, tells and leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import Digest, digest_of
from federation.wire.keyed_entry import KeyedValue, action_of, encode_entry
from tests.support.process import Node, federation, serve
from tests.support.process_client import Client, action_result

SMALL, LARGE = b"small secret", b"large secret" * 30_000
ACTION, URI = digest_of(b"an action"), "https://example.com/secret"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with serve(tmp_path / "data", name="here") as node:
        yield node


def run(*args: object, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*map(str, args), "--json"])
    assert done.exit_code == code, done.output
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def purge(node: Node, *args: object, code: int = 0) -> dict[str, Any]:
    return run("purge", *args, "--data-dir", node.data_dir, "--yes", code=code)


def written(client: Client, data: bytes) -> Digest:
    client.write(data)
    return digest_of(data)


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_a_blob_is_gone_beside_a_serving_node_and_a_push_brings_it_back(
    node: Node, data: bytes
) -> None:
    with Client(node.address) as client:
        digest = written(client, data)
        client.update_action_result(ACTION, action_result([("out", digest)]))
        assert client.get_action_result(ACTION) is not None
        facts = purge(node, digest)
        assert (facts["count"], facts["bytes"]) == (1, len(data))
        assert facts["purged"] == [
            {"object": str(digest), "kind": "blob", "bytes": len(data), "was-here": True}
        ]
        assert client.find_missing([digest]) == {digest}
        assert client.get_action_result(ACTION) is None
        shown = run("explain", digest, "--data-dir", node.data_dir, code=1)
        assert shown["purged"].endswith("command line")
        client.write(data)
        assert client.get_action_result(ACTION) is not None
        shown = run("explain", digest, "--data-dir", node.data_dir)
        assert shown["purged"].endswith("and pushed again since")


def test_it_works_without_a_node_and_a_hash_suffices_for_what_is_here(node: Node) -> None:
    with Client(node.address) as client:
        digest = written(client, SMALL)
    assert node.stop() == 0
    assert purge(node, digest.hash_hex)["count"] == 1
    with serve(node.data_dir) as again, Client(again.address) as client:
        assert client.find_missing([digest]) == {digest}
    facts = purge(node, digest_of(b"never here"))
    assert [each["was-here"] for each in facts["purged"]] == [False]


def test_a_uri_an_action_and_a_key_name_entries_in_every_instance(node: Node) -> None:
    with Client(node.address) as client, Client(node.address, "pr") as other:
        digest = written(client, SMALL)
        for each in (client, other):
            each.push_blob(URI, digest)
            each.update_action_result(ACTION, action_result([("out", digest)]))
        assert purge(node, URI, "--instance", "pr")["count"] == 1
        assert client.fetch_blob(URI) == digest
        assert other.fetch_blob(URI) is None
        assert purge(node, URI)["count"] == 1
        nothing = federation("purge", URI, "--data-dir", str(node.data_dir), "--yes", "--json")
        assert (nothing.returncode, json.loads(nothing.stdout)["count"]) == (1, 0)
        assert "nothing here matches" in nothing.stderr
        facts = purge(node, "--action", ACTION)
        assert [each["instance"] for each in facts["purged"]] == ["", "pr"]
        assert client.get_action_result(ACTION) is None
        assert client.find_missing([digest]) == set()  # what entries name stays
        assert "purged in 'pr'" in run("explain", URI, "--data-dir", node.data_dir, code=1)


def test_a_keyed_entry_is_purged_where_the_http_cache_keeps_it(node: Node) -> None:
    with Client(node.address, "kv/main") as client:
        digest = written(client, SMALL)
        value = encode_entry(KeyedValue(digest))
        result = action_result([])
        result.ParseFromString(value)
        client.write(b"federation-http/kv/main\nsome/key")
        client.update_action_result(action_of("kv/main", "some/key"), result)
        facts = purge(node, "kv/main/some/key")
        assert [(e["instance"], e["was-here"]) for e in facts["purged"]] == [("kv/main", True)]
        assert client.get_action_result(action_of("kv/main", "some/key")) is None
        facts = purge(node, "kv/main/never")
        assert [(e["instance"], e["was-here"]) for e in facts["purged"]] == [("kv/main", False)]


def test_all_of_an_instance_or_what_is_old_in_it(node: Node) -> None:
    with Client(node.address, "pr") as client:
        digest = written(client, SMALL)
        for at in range(5):
            client.push_blob(f"{URI}/{at}", digest)
        args = ("--instance", "pr", "--older-than")
        assert purge(node, *args, "1d", code=1)["count"] == 0
        assert purge(node, *args, "0s", "--dry-run")["count"] == 5
        assert client.fetch_blob(f"{URI}/0") == digest
        assert purge(node, "--instance", "pr")["count"] == 5
        assert client.fetch_blob(f"{URI}/0") is None
        assert purge(node, "--instance", "pr", code=1)["count"] == 0


def test_a_dry_run_changes_nothing_and_says_so(node: Node) -> None:
    with Client(node.address) as client:
        digest = written(client, SMALL)
        facts = purge(node, digest, "--dry-run")
        assert (facts["dry-run"], facts["count"], facts["bytes"]) == (True, 1, len(SMALL))
        assert client.find_missing([digest]) == set()


def test_somebody_is_asked_first(node: Node) -> None:
    with Client(node.address) as client:
        digest = written(client, SMALL)
        done = CliRunner().invoke(main, ["purge", str(digest), "--data-dir", str(node.data_dir)])
        assert done.exit_code == 2
        assert "--yes" in done.output
        assert client.find_missing([digest]) == set()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "give a DIGEST"),
        ([URI, "--action", str(ACTION)], "give one of"),
        ([str(ACTION), "--instance", "pr"], "blobs have no instance"),
        ([str(ACTION), "--older-than", "1d"], "blobs have no instance"),
        ([ACTION.hash_hex], "give HASH/SIZE"),
        ([str(digest_of(b""))], "the empty blob"),
        (["--instance", "pr", "--older-than", "soon"], "--older-than"),
    ],
)
def test_what_cannot_be_meant_is_refused(node: Node, args: list[str], says: str) -> None:
    done = CliRunner().invoke(main, ["purge", *args, "--data-dir", str(node.data_dir), "--yes"])
    assert done.exit_code == 2, done.output
    assert says in done.output


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    run("purge", ACTION, "--data-dir", tmp_path / "none", "--yes", code=3)


def test_the_purge_is_logged_with_who_did_it(node: Node) -> None:
    done = federation("purge", str(ACTION), "--data-dir", str(node.data_dir), "--yes")
    assert done.returncode == 0
    assert "purged" in done.stderr
    assert "command line" in done.stderr
    assert "Traceback" not in done.stderr
