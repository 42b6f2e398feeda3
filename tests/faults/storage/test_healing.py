"""Blobs damaged behind the node's back come back though nobody asks for them: S15, S18."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.core.digest import Digest, digest_of
from tests.faults.storage.clean import assert_clean, blob_path
from tests.faults.storage.conftest import file_blob
from tests.server.workers.crew import CrewNode
from tests.support.polling import wait_until
from tests.support.process import Node, Settings, federation, serve
from tests.support.process_client import Client, outcome

NOT_FOUND = grpc.StatusCode.NOT_FOUND
_LARGE = 3 * 2**20  # more than one chunk


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def fill(node: Node, *blobs: bytes) -> list[Digest]:
    with Client(node.address) as client:
        for data in blobs:
            client.write(data)
    return [digest_of(data) for data in blobs]


def damage(data_dir: Path, digest: Digest) -> None:
    path = blob_path(data_dir, digest.hash_hex, digest.size_bytes)
    path.write_bytes(bytes(path.stat().st_size))


def find_damage(node: Node, digest: Digest) -> None:
    """Let the node find out by a read, which gets no byte of it."""
    with Client(node.address) as client:
        # Where an upstream has it, this very read is answered with its bytes.
        outcome(lambda: client.read(digest))


def hub(node: Node) -> Settings:
    return {"upstreams": [{"name": "hub", "url": f"grpc://{node.address}"}]}


def peer(name: str, node: Node) -> Settings:
    return {"peers": [{"name": name, "url": f"grpc://{node.address}"}]}


def healing(data_dir: Path) -> dict[str, Any]:
    done = federation("status", "--data-dir", str(data_dir), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["healing"]
    return found


def wait_healed(node: Node, count: int = 1) -> dict[str, Any]:
    def is_healed() -> dict[str, Any] | None:
        found = healing(node.data_dir)
        return found if found["healed"] == count and not found["lost"] else None

    found: dict[str, Any] = wait_until(is_healed, f"{count} healed\n{node.log_tail}")
    return found


def test_s18_what_the_scrub_finds_comes_back_from_the_upstream(
    tmp_path: Path, stack: ExitStack
) -> None:
    blobs = [file_blob(), file_blob(_LARGE)]
    there = stack.enter_context(serve(tmp_path / "hub", name="hub"))
    fill(there, *blobs)
    scrubs = {"storage": {"verify-after": "0s"}, **hub(there)}
    with serve(tmp_path / "here", scrubs) as node:
        digests = fill(node, *blobs)
        assert node.stop() == 0
        for digest in digests:
            damage(node.data_dir, digest)
        node.start()
        shown = wait_healed(node, 2)
        assert {each["from"] for each in shown["healed-blobs"]} == {"hub"}
        there.stop()
        with Client(node.address) as client:
            assert [client.read(digest) for digest in digests] == blobs
        wait_counted(node, 2, "federation_healed_total", source="upstream")
        wait_until(lambda: node.log.count("blob_healed") == 2, "a line about each")
        assert_clean(node.data_dir)


def test_s15_without_an_upstream_a_peer_gives_back_what_a_read_set_aside(
    tmp_path: Path, stack: ExitStack
) -> None:
    data = file_blob(_LARGE)
    tokyo = stack.enter_context(serve(tmp_path / "tokyo", name="tokyo"))
    fill(tokyo, data)
    node = stack.enter_context(serve(tmp_path / "here", peer("tokyo", tokyo)))
    (digest,) = fill(node, data)
    damage(node.data_dir, digest)
    with Client(node.address) as client:
        assert outcome(lambda: client.read(digest)) != grpc.StatusCode.OK
        (shown,) = wait_healed(node)["healed-blobs"]
        assert shown["from"] == "tokyo"
        assert client.read(digest) == data
    wait_counted(node, 1, "federation_healed_total", source="peer")
    wait_until(lambda: "blob_healed" in node.log, "a line about it")


def wait_counted(node: Node, wanted: int, name: str, **labels: str) -> None:
    """Wait until a node has counted what its catalogue, where tests look, says already."""
    wait_until(lambda: node.metrics().value(name, **labels) == wanted, f"{name} to be {wanted}")


def wait_told(node: Node) -> dict[str, Any]:
    """Wait until a lost blob was asked for, and return what is shown of it."""

    def told() -> dict[str, Any] | None:
        found = healing(node.data_dir)["lost-blobs"]
        return found[0] if found and found[0]["tries"] else None

    shown: dict[str, Any] = wait_until(told, f"it was asked for\n{node.log_tail}")
    return shown


def test_two_peers_with_the_same_damage_do_not_ask_in_circles_and_both_say_so(
    tmp_path: Path, stack: ExitStack
) -> None:
    data = file_blob()
    other = stack.enter_context(serve(tmp_path / "other", name="other"))
    one = stack.enter_context(serve(tmp_path / "one", peer("other", other), name="one"))
    other.write_config(peer("one", one))
    assert federation("reload", "--data-dir", str(other.data_dir)).returncode == 0
    (digest,) = fill(one, data)
    with Client(other.address) as client:
        wait_until(lambda: not client.find_missing([digest]), "it is at both")
    for node in (one, other):
        damage(node.data_dir, digest)
    for node, name in ((one, "other"), (other, "one")):
        find_damage(node, digest)
        shown = wait_told(node)
        assert shown["digest"] == str(digest)
        assert shown["answers"] == f"{name}: does not hold it"
        assert shown["since"] <= shown["tried-at"]
        wait_counted(node, 1, "federation_lost_blobs")
        wait_until(lambda node=node: "blob_not_healed" in node.log, "a line about it")  # type: ignore[misc]


def test_what_nobody_had_is_asked_for_again_after_a_restart(
    tmp_path: Path, stack: ExitStack
) -> None:
    data = file_blob()
    there = stack.enter_context(serve(tmp_path / "hub", name="hub"))
    node = stack.enter_context(serve(tmp_path / "here", hub(there)))
    (digest,) = fill(node, data)
    damage(node.data_dir, digest)
    find_damage(node, digest)
    assert wait_told(node)["answers"] == "hub: did not send it"
    node.kill()
    fill(there, data)
    node.start()  # the next try is due within ten seconds
    assert wait_healed(node)["healed-blobs"][0]["from"] == "hub"


def test_of_several_workers_one_heals(tmp_path: Path, stack: ExitStack) -> None:
    blobs = [file_blob() for _ in range(6)]
    there = stack.enter_context(serve(tmp_path / "hub", name="hub"))
    fill(there, *blobs)
    node = CrewNode(tmp_path / "here", dict(hub(there)))
    stack.enter_context(node.start())
    digests = fill(node, *blobs)
    for digest in digests:
        damage(node.data_dir, digest)
    done = federation("verify", "--repair", "--data-dir", str(node.data_dir))
    assert done.returncode == 1, done.stderr
    wait_healed(node, 6)
    wait_counted(node, 6, "federation_healed_total", source="upstream")
    wait_until(lambda: len(node.events("blob_healed")) == 6, "a line about each")


def test_an_offline_node_asks_no_upstream_until_it_may(tmp_path: Path, stack: ExitStack) -> None:
    data = file_blob()
    there = stack.enter_context(serve(tmp_path / "hub", name="hub"))
    fill(there, data)
    node = stack.enter_context(serve(tmp_path / "here", hub(there)))
    (digest,) = fill(node, data)
    assert federation("offline", "on", "--data-dir", str(node.data_dir)).returncode == 0
    damage(node.data_dir, digest)
    find_damage(node, digest)
    wait_until(lambda: node.metrics().value("federation_lost_blobs") == 1, "the healer has looked")
    with Client(node.address) as client:
        assert outcome(lambda: client.read(digest)) == NOT_FOUND
    (shown,) = healing(node.data_dir)["lost-blobs"]
    assert (shown["tries"], shown["tried-at"]) == (0, None)
    assert federation("offline", "off", "--data-dir", str(node.data_dir)).returncode == 0
    wait_healed(node)
