"""Senders and receivers that are killed at any moment."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from federation.core.digest import digest_of
from tests.faults.replication.mesh import Mesh
from tests.faults.replication.rounds import PLAIN, Rounds
from tests.faults.replication.work import BLOB_BYTES, name_all, noise, push, settle
from tests.faults.storage.load import Load
from tests.support.oracle import Oracle
from tests.support.polling import wait_until

ONE_WAY = [("a", "b")]
SEED = 4


@pytest.mark.parametrize("turn", range(2))
def test_r05_a_sender_killed_before_it_noted_what_was_acknowledged(pair: Mesh, turn: int) -> None:
    rng = random.Random(turn)
    with pair.client("a") as client:
        digests = push(client, f"r05 {turn}", 500)
        entries = name_all(client, f"r05 {turn}", digests, each=20)
    head = pair.head("b")
    with pair.client("b") as there:
        if turn:  # all is there, and the cursor is not: it is saved only now and then
            wait_until(lambda: not there.find_missing(digests), "the blobs")
        else:
            time.sleep(rng.uniform(0, 0.1))
    pair.nodes["a"].kill()
    came = pair.received_bytes("b")
    pair.start("a")
    settle(pair)
    assert pair.head("b") <= head + len(digests) + entries  # it makes no second row of anything
    if turn:  # nor is it sent a second time
        assert pair.received_bytes("b") == came


def test_a_sender_killed_at_any_moment_under_load(pair: Mesh, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with Oracle(tmp_path / "journal") as oracle:
        for turn in range(2):
            load = Load(pair.nodes["a"].address, oracle, f"{SEED}:{turn}", workers=2)
            load.start()
            time.sleep(rng.uniform(0.1, 0.6))
            pair.nodes["a"].kill()
            done = load.stop()
            assert not done.faults, done.faults[:5]
            pair.start("a")
        settle(pair)
        for name in pair.nodes:
            with pair.client(name) as client:
                oracle.verify(client).check()


def test_r06_what_a_killed_receiver_had_acknowledged_is_there(pair: Mesh) -> None:
    for turn in range(2):
        before = pair.sent("a", "b")  # all of it may be there before the push returns
        with pair.client("a") as client:
            push(client, f"r06 {turn}", 300)
        wait_until(lambda: pair.sent("a", "b") > before, "an acknowledgement")  # noqa: B023
        pair.nodes["b"].kill()
        acknowledged = pair.peer("a", "b")["lanes"]["always"]["cursor"]
        pair.start("b")
        settle(pair)
        assert pair.peer("a", "b")["lanes"]["always"]["cursor"] >= acknowledged


def test_a_receiver_killed_in_the_middle_of_a_blob(tmp_path: Path) -> None:
    speed = 8_000_000
    with Mesh(tmp_path, ONE_WAY, bytes_s=speed) as mesh:
        mesh.start()
        mesh.wait_until_idle()
        large = noise("large", 6_000_000)
        with mesh.client("a") as client:
            client.write(large)
            push(client, "small", 20)
        carried = mesh.links["a", "b"].carried
        wait_until(lambda: carried[0] > len(large) // 2, "half of it")
        with mesh.client("b") as there:
            assert there.find_missing([digest_of(large)])
        mesh.nodes["b"].kill()
        mesh.start("b")
        settle(mesh)
        # It goes on where it was cut, but for what the receiver had not yet made durable.
        assert carried[0] < 2 * len(large) + 20 * BLOB_BYTES * 2


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_r16_20_rounds_of_cuts_kills_and_writes_on_both_sides(tmp_path: Path) -> None:
    result = Rounds(tmp_path, SEED, replace(PLAIN, nodes=2)).run(20, lambda _: None)
    assert result.rounds == 20
