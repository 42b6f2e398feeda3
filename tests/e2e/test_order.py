"""Three upstreams in their order of priority: who is asked, when, and how often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.core.digest import Digest, digest_of
from tests.support.process import Node, serve
from tests.support.process_client import Client, action_result, outcome
from tests.support.samples import Samples

NAMES = ("first", "second", "third")
LARGE_BYTES = 400_000
URI = "urn:fdc:example:2020:"
_METHODS = {
    "Read": "google.bytestream.ByteStream/Read",
    "BatchReadBlobs": "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    "FindMissingBlobs": (
        "build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs"
    ),
    "GetActionResult": "build.bazel.remote.execution.v2.ActionCache/GetActionResult",
    "FetchBlob": "build.bazel.remote.asset.v1.Fetch/FetchBlob",
}


class Site:
    """A node whose upstreams are three others, and clients of all of them."""

    def __init__(self, folder: Path, nodes: list[Node], stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.nodes = nodes
        self.clients = [stack.enter_context(Client(node.address)) for node in nodes]
        self._before = [node.metrics() for node in nodes]

    def mirror(self, **over: dict[str, Any]) -> Client:
        """Return a client that may only read, of a new node; over: settings by upstream."""
        upstreams = [
            {"name": name, "url": f"grpc://{node.address}", **over.get(name, {})}
            for name, node in zip(NAMES, self.nodes, strict=True)
        ]
        settings = {
            "listeners": [{"address": "127.0.0.1:0"}],
            "upstreams": upstreams,
            "pull": {"prefetch": "none", "absent-for": "60s"},
        }
        self.here = self._stack.enter_context(serve(self._folder / "here", settings, name="here"))
        return self._stack.enter_context(Client(self.here.address))

    def said(self) -> list[tuple[int, int]]:
        """Return for how many blobs each upstream said that it has them, and that it has not."""
        name, samples = "federation_upstream_answers_total", self.here.metrics()
        return [
            (
                int(samples.value(name, upstream=each, result="hit")),
                int(samples.value(name, upstream=each, result="miss")),
            )
            for each in NAMES
        ]

    def asked(self, method: str) -> list[tuple[int, int]]:
        """Return of each upstream how many calls it has answered with OK, and with NOT_FOUND."""
        return [
            (
                _calls(node.metrics(), method, "OK") - _calls(before, method, "OK"),
                _calls(node.metrics(), method, "NOT_FOUND") - _calls(before, method, "NOT_FOUND"),
            )
            for node, before in zip(self.nodes, self._before, strict=True)
        ]


def _calls(samples: Samples, method: str, code: str) -> int:
    return int(samples.value("federation_requests_total", method=_METHODS[method], code=code))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Three nodes for all tests, which put different things there."""
    folder = tmp_path_factory.mktemp("upstreams")
    with ExitStack() as stack:
        yield [stack.enter_context(serve(folder / name, name=name)) for name in NAMES]


@pytest.fixture
def site(tmp_path: Path, nodes: list[Node]) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, nodes, stack)


def put(clients: Sequence[Client], data: bytes) -> Digest:
    for client in clients:
        client.write(data)
    return digest_of(data)


def test_a_large_blob_comes_from_the_first_that_has_it(site: Site) -> None:
    of_all = put(site.clients, b"a" * LARGE_BYTES)
    of_two = put(site.clients[1:], b"b" * LARGE_BYTES)
    of_last = put(site.clients[2:], b"c" * LARGE_BYTES)
    of_none = digest_of(b"d" * LARGE_BYTES)
    here = site.mirror()
    assert here.read(of_all) == b"a" * LARGE_BYTES
    assert site.asked("Read") == [(1, 0), (0, 0), (0, 0)]
    assert here.read(of_two) == b"b" * LARGE_BYTES
    assert site.asked("Read") == [(1, 1), (1, 0), (0, 0)]
    assert here.read(of_last) == b"c" * LARGE_BYTES
    assert site.asked("Read") == [(1, 2), (1, 1), (1, 0)]
    for _ in range(3):  # known to be absent after the first time
        assert outcome(lambda: here.read(of_none)) is grpc.StatusCode.NOT_FOUND
    asked = [(1, 3), (1, 2), (1, 1)]
    assert site.asked("Read") == asked
    for digest in (of_all, of_two, of_last):  # held by now
        here.read(digest)
    assert site.asked("Read") == asked


def test_each_of_a_batch_comes_from_the_first_that_has_it(site: Site) -> None:
    blobs = [bytes([number]) * 1000 for number in range(40)]
    wanted = [put(site.clients[number // 10 :], data) for number, data in enumerate(blobs[:30])]
    wanted += [digest_of(data) for data in blobs[30:]]
    held = dict(zip(wanted[:30], blobs, strict=False))
    here = site.mirror()
    for _ in range(3):
        assert here.batch_read(wanted) == held
        assert site.asked("BatchReadBlobs") == [(1, 0), (1, 0), (1, 0)]
    assert site.said() == [(10, 30), (10, 20), (10, 10)]


def test_readers_are_told_of_what_any_has_and_each_is_asked_once(site: Site) -> None:
    digests = [put([client], bytes([n]) * 101) for n, client in enumerate(site.clients)]
    absent = digest_of(b"nowhere")
    here = site.mirror()
    for _ in range(3):
        assert here.find_missing([*digests, absent]) == {absent}
        assert site.asked("FindMissingBlobs") == [(1, 0), (1, 0), (1, 0)]
    assert site.said() == [(1, 3), (1, 3), (1, 3)]


def test_entries_come_from_the_first_that_has_them_whole(site: Site) -> None:
    outputs = [put([client], bytes([n]) * 100) for n, client in enumerate(site.clients)]
    action = digest_of(b"an action")
    # The first has a result whose output it lacks; the others each have one of their own.
    named = [outputs[1], outputs[1], outputs[2]]
    for client, output in zip(site.clients, named, strict=True):
        client.update_action_result(action, action_result([("out", output)], exit_code=1))
        client.push_blob(f"{URI}thing", output)
    here = site.mirror()
    assert here.fetch_blob(f"{URI}nothing") is None  # remembered for two seconds only
    for _ in range(3):
        found = here.get_action_result(action)
        assert found is not None
        assert found.output_files[0].digest.hash == outputs[1].hash_hex
        assert here.fetch_blob(f"{URI}thing") == outputs[1]
        assert site.asked("GetActionResult") == [(0, 1), (1, 0), (0, 0)]
        assert site.asked("FetchBlob") == [(0, 2), (1, 1), (0, 1)]


def test_an_upstream_is_asked_only_for_what_it_is_for(site: Site) -> None:
    large = put(site.clients, b"typed" * LARGE_BYTES)
    action = digest_of(b"another action")
    for client in site.clients:
        client.update_action_result(action, action_result([("out", large)]))
        client.push_blob(f"{URI}typed-thing", large)
        client.push_blob(f"{URI}typed-other", large)
    here = site.mirror(
        first={"type": "index", "trust-action-results": False, "assets": [f"{URI}typed-th*"]},
        second={"type": "storage"},
    )
    assert here.get_action_result(action) is not None
    assert site.asked("GetActionResult") == [(0, 0), (0, 0), (1, 0)]
    assert here.fetch_blob(f"{URI}typed-thing") == large
    assert site.asked("FetchBlob") == [(1, 0), (0, 0), (0, 0)]
    assert here.fetch_blob(f"{URI}typed-other") == large
    assert site.asked("FetchBlob") == [(1, 0), (0, 0), (1, 0)]
    assert here.read(large) == b"typed" * LARGE_BYTES
    assert site.asked("Read") == [(0, 0), (1, 0), (0, 0)]
