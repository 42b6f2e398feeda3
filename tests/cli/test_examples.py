"""The configurations that the README shows, run as they are but for addresses and paths."""

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import digest_of
from tests.support.certificates import self_signed
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client, action_result, outcome

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.yaml"))
EXAMPLES.remove(ROOT / "docs/examples/two-sites-tokyo.yaml")  # as the other site's

URI = "https://example.com/artifact"
LARGE, SMALL = random.Random(1).randbytes(600_000), b"small"
BLOBS = {digest_of(data): data for data in (LARGE, SMALL)}
ACTION = digest_of(b"an action")
ABSENT = digest_of(b"nobody has this")


@contextmanager
def far_away(tmp_path: Path) -> Iterator[tuple[Node, Client]]:
    """The cache at cache.example.com: its node, and a client that may push there."""
    pair = self_signed(tmp_path, "far")
    tls = {"server-cert": str(pair.certificate), "server-key": str(pair.key)}
    listeners = [{"address": "127.0.0.1:0", "push": True}, {"address": "127.0.0.1:0", "tls": tls}]
    with (
        serve(tmp_path / "far", {"listeners": listeners}, name="far") as node,
        Client(node.address) as client,
    ):
        for data in BLOBS.values():
            client.write(data)
        client.push_blob(URI, digest_of(LARGE), [digest_of(SMALL)])
        client.update_action_result(ACTION, action_result([("out", digest_of(SMALL))]))
        yield node, client


def example(name: str, tmp_path: Path, far: Node) -> Node:
    """A node with this example's text, in which addresses and paths are those of the test."""
    text = (ROOT / "docs/examples" / name).read_text()
    for there, here in {
        "/var/lib/federation": tmp_path / "data",
        "/etc/federation/project.crt": tmp_path / "far.crt",
        "/etc/federation/public.crt": tmp_path / "far.crt",
        "cache.example.com:11001": far.addresses[1],
        "0.0.0.0:11001": "127.0.0.1:0",
        "10.0.0.5:11002": "127.0.0.1:0",
        "127.0.0.1:8981": "127.0.0.1:0",
    }.items():
        text = text.replace(there, str(here))
    path = tmp_path / name
    path.write_text(text)
    return Node(tmp_path / "data", args=["--config", str(path)], name="near").start()


def stored(node: Node) -> int:
    return int(node.metrics().value("federation_stored_blobs"))


def status(node: Node) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["status", "--data-dir", str(node.data_dir), "--json"])
    assert done.exit_code == 0, done.output
    process: dict[str, Any]
    (process,) = json.loads(done.stdout)["processes"]
    return process


def test_the_sites_that_mirror_each_other_differ_in_names_alone() -> None:
    paris, tokyo = (ROOT / f"docs/examples/two-sites-{name}.yaml" for name in ("paris", "tokyo"))
    exchanged = {"paris": "tokyo", "tokyo": "paris", "10.1.0.5": "10.2.0.5"}
    text = re.sub(
        rf"\b({'|'.join(exchanged)})\b", lambda found: exchanged[found[0]], paris.read_text()
    )
    assert text == tokyo.read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_readme_shows_what_is_in_the_file(path: Path) -> None:
    assert f"```yaml\n{path.read_text()}```\n" in (ROOT / "README.md").read_text()


def test_a_mirror_serves_on_when_what_it_mirrors_is_gone(tmp_path: Path) -> None:
    with far_away(tmp_path) as (far, _), example("mirror.yaml", tmp_path, far) as near:
        with Client(near.address) as client:
            assert client.find_missing([*BLOBS, ABSENT]) == {ABSENT}
            assert outcome(lambda: client.write(b"new")) is grpc.StatusCode.PERMISSION_DENIED
            pull_all(client)
        wait_until(lambda: stored(near) == len(BLOBS), "all of it is brought here")
        (upstream,) = status(near)["upstreams"]
        assert (upstream["name"], upstream["state"]) == ("project", "up")
        assert upstream["received-bytes"] > len(LARGE)
        assert upstream["hits"] >= len(BLOBS)
        assert upstream["entry-hits"] == 2
        assert upstream["first-byte-ms"]["p99"] > 0
        far.kill()
        with Client(near.address) as client:
            pull_all(client)
            assert client.find_missing(BLOBS) == set()
            wait_until(
                lambda: (
                    not client.batch_read([ABSENT]) and status_of_far(near) in {"down", "probing"}
                ),
                "the loss is noticed",
            )
        assert near.http_get("/readyz")[0] == 200
        (upstream,) = status(near)["upstreams"]
        assert upstream["silences"] > 0
        assert "unavailable" in upstream["last-error"]
        check_metrics(near)


def pull_all(client: Client) -> None:
    assert client.fetch_blob(URI) == digest_of(LARGE)
    assert {digest: client.read(digest) for digest in BLOBS} == BLOBS
    assert client.get_action_result(ACTION) is not None


def status_of_far(node: Node) -> str:
    state: str = status(node)["upstreams"][0]["state"]
    return state


def check_metrics(node: Node) -> None:
    """Every fact that an operator may want to graph or alert on is there for each upstream."""
    samples = node.metrics()
    by_name = [
        ("federation_upstream_answers_total", {"result": "hit"}),
        ("federation_upstream_answers_total", {"result": "silence"}),
        ("federation_upstream_entries_total", {"result": "hit"}),
    ]
    for name, labels in by_name:
        assert samples.value(name, upstream="project", **labels) > 0, name
    for name in ("federation_remote_first_byte_seconds_count", "federation_remote_seconds_count"):
        assert samples.value(name, remote="project") > 0, name
    assert samples.value("federation_remote_bytes_total", remote="project", direction="in") > 0
    failed = {"remote": "project", "outcome": "unavailable"}
    assert samples.value("federation_remote_calls_total", **failed) > 0
    _, text = node.http_get("/metrics")
    for series in (
        'federation_upstream_up{upstream="project"} 0.0',
        'federation_upstream_reads_saved_total{upstream="project"} ',
        'federation_upstream_answers_total{result="wrong_bytes",upstream="project"} 0.0',
    ):
        assert series in text


def test_a_private_cache_is_filled_from_the_public_one_and_tells_it_nothing(tmp_path: Path) -> None:
    mine = digest_of(b"secret")
    with far_away(tmp_path) as (far, public):
        before = written(far)
        assert sum(before) == 4  # what the test itself has pushed there
        with example("backfill.yaml", tmp_path, far) as near:
            push, pull = near.addresses
            with Client(push) as builder, Client(pull) as reader:
                builder.write(b"secret")
                builder.update_action_result(digest_of(b"mine"), action_result([("o", mine)]))
                builder.push_blob("https://example.com/mine", mine)
                assert reader.read(mine) == b"secret"
                assert reader.fetch_blob("https://example.com/mine") == mine
                assert reader.get_action_result(digest_of(b"mine")) is not None
                assert public.find_missing([mine]) == {mine}

                assert builder.find_missing(BLOBS) == set(BLOBS)  # else it might not push them
                assert reader.find_missing(BLOBS) == set()
                assert reader.fetch_blob(URI) == digest_of(LARGE)
                assert reader.read(digest_of(LARGE)) == LARGE
                assert builder.batch_read([digest_of(SMALL)]) == {digest_of(SMALL): SMALL}
                assert reader.get_action_result(ACTION) is None
        assert written(far) == before


def written(node: Node) -> list[float]:
    """How often somebody has told the node something."""
    samples, prefix = node.metrics(), "build.bazel.remote"
    return [
        samples.value("federation_requests_total", method=method)
        for method in (
            "google.bytestream.ByteStream/Write",
            f"{prefix}.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
            f"{prefix}.execution.v2.ActionCache/UpdateActionResult",
            f"{prefix}.asset.v1.Push/PushBlob",
        )
    ]
