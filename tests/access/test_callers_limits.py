"""Limits for each caller, on a real node: who is over its share waits, and others do not notice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.access.rights import Role
from federation.access.tokens import RANDOM_BYTES, make_token
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from tests.access.served import Site
from tests.support.polling import wait_until
from tests.support.process import Node
from tests.support.process_client import Client, action_result, outcome

MIB = 2**20
HELD_BACK = "federation_callers_held_back_total"
TOKENS = [
    make_token(Role.PUSH, bytes([at]) * RANDOM_BYTES, SystemClock().wall_s(), name=name)
    for at, name in enumerate(("alice", "bob"))
]
ALICE, BOB = (each.text for each in TOKENS)


def site(folder: Path) -> Site:
    made = Site(folder)
    tokens = folder / "tokens"
    tokens.write_text("".join(f"{each.line}\n" for each in TOKENS))
    made.listen(auth={"tokens": str(tokens)})
    return made


class Paused:
    """An upload that has begun, and ends when it is told to."""

    def __init__(self, client: Client, data: bytes) -> None:
        self._go_on = threading.Event()
        self._client = client
        self._data = data
        self.code: grpc.StatusCode | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _messages(self) -> Iterator[bs.WriteRequest]:
        name = self._client.upload_name(digest_of(self._data))
        yield bs.WriteRequest(resource_name=name, data=self._data[:10])
        self._go_on.wait(20)
        yield bs.WriteRequest(write_offset=10, data=self._data[10:], finish_write=True)

    def _run(self) -> None:
        self.code = outcome(lambda: self._client.bytestream.Write(self._messages(), timeout=30))

    def finish(self) -> None:
        self._go_on.set()
        self._thread.join(30)


def uploads_open(node: Node) -> float:
    return node.metrics().value("federation_uploads_open")


def test_uploads_above_the_number_wait_and_those_of_others_do_not(tmp_path: Path) -> None:
    here = site(tmp_path)
    with (
        here.node(limits={"uploads-per-caller": 1}).start() as node,
        here.connect(node, token=ALICE) as alice,
        here.connect(node, token=BOB) as bob,
    ):
        first = Paused(alice, b"first" * 100)
        wait_until(lambda: uploads_open(node) == 1, "the first upload")
        second = Paused(alice, b"second" * 100)
        try:
            wait_until(lambda: node.metrics().value(HELD_BACK, by="uploads") == 1, "a wait")
            assert uploads_open(node) == 1
            bob.write(b"of somebody else")
            assert alice.find_missing([digest_of(b"of somebody else")]) == set()
        finally:
            second_waits = second.code is None
            first.finish()
            second.finish()
        assert second_waits
        assert first.code is second.code is grpc.StatusCode.OK
        data = [b"first" * 100, b"second" * 100]
        assert alice.find_missing(map(digest_of, data)) == set()


@pytest.mark.parametrize("way", ["in", "out"])
def test_bytes_above_the_rate_take_their_time(tmp_path: Path, way: str) -> None:
    here = site(tmp_path)
    data = bytes(range(256)) * (4 * MIB // 256)
    clock = SystemClock()
    with (
        here.node(limits={"bandwidth-per-caller": 2 * MIB}).start() as node,
        here.connect(node, token=ALICE) as alice,
        here.connect(node, token=BOB) as bob,
    ):
        if way == "out":
            bob.write(data)
        began_s = clock.monotonic_s()
        if way == "in":
            alice.write(data)
        else:
            assert alice.read(digest_of(data)) == data
        assert clock.monotonic_s() - began_s >= 0.9  # a second's worth is free
        assert node.metrics().value(HELD_BACK, by="bandwidth") >= 1


def test_every_method_that_writes_counts_a_callers_instances(tmp_path: Path) -> None:
    """Names of instances are kept for as long as anything has them."""
    data = b"in an instance"
    digest = digest_of(data)

    def writes(client: Client) -> list[Callable[[], object]]:
        return [
            lambda: client.write(data),
            lambda: client.batch_update([data]),
            lambda: client.update_action_result(digest, action_result([])),
            lambda: client.push_blob("urn:x", digest),
        ]

    here = site(tmp_path)
    with here.node(limits={"instances-per-caller": 1}).start() as node:
        with here.connect(node, token=ALICE, instance="one") as one:
            for write in writes(one):
                write()
        with here.connect(node, token=ALICE, instance="two") as two:
            refused = [outcome(write) for write in writes(two)]
            assert two.read(digest) == data
        with here.connect(node, token=BOB, instance="two") as two:
            assert outcome(writes(two)[0]) is grpc.StatusCode.OK
        assert refused == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4
        assert node.metrics().value("federation_limits_hit_total", limit="instances-per-caller")
