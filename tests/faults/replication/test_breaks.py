"""Links that break, fall silent or are slow, and peers that are away or frozen, under load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.core.digest import digest_of
from tests.faults.replication.link import Mode
from tests.faults.replication.mesh import Mesh
from tests.faults.replication.work import BLOB_BYTES, name_all, noise, push, settle
from tests.faults.storage.load import Load
from tests.support.oracle import Oracle
from tests.support.polling import pass_time, wait_until

A_TO_B, B_TO_A = ("a", "b"), ("b", "a")
ONE_WAY = [A_TO_B]
PATIENT = {"connection-config": {"request-timeout": "60s", "stall": "30s"}}  # as by default
BATCH_MAX_BYTES = 4 * 2**20
IN_FLIGHT_BYTES = 32 * 2**20  # the most that is under way at once, whatever breaks


@contextmanager
def writing(mesh: Mesh, path: Path) -> Iterator[Oracle]:
    """Write at both nodes all the while, and read everything back from each at the end."""
    with Oracle(path) as oracle:
        loads = [
            Load(
                mesh.nodes[name].address,
                oracle,
                f"{path}:{name}",
                workers=1,
                large_bytes=2**20,
                pause_s=0.02,
            )
            for name in mesh.nodes
        ]
        for load in loads:
            load.start()
        yield oracle
        for load in loads:
            done = load.stop()
            assert not done.faults, done.faults[:5]
        settle(mesh)
        for name in mesh.nodes:
            with mesh.client(name) as client:
                oracle.verify(client).check()


def test_r04_a_link_cut_and_restored_20_times_under_load(pair: Mesh, tmp_path: Path) -> None:
    before = {name: pair.received_bytes(name) for name in pair.nodes}
    held = {name: sum(size for _, size in pair.held(name).blobs) for name in pair.nodes}
    with writing(pair, tmp_path / "journal"):
        for turn in range(20):
            for link in pair.links.values():
                link.set(Mode.CUT)
            time.sleep(0.05)
            for link in pair.links.values():
                link.set(Mode.OPEN)
            time.sleep(0.1 if turn % 2 else 0.2)
    for name in pair.nodes:  # what was written here, what came, and what was cut off on its way
        new_bytes = sum(size for _, size in pair.held(name).blobs) - held[name]
        received_bytes = pair.received_bytes(name) - before[name]
        assert received_bytes <= new_bytes + 20 * BATCH_MAX_BYTES


def test_r04_progress_is_made_each_time_that_a_peer_is_there(pair: Mesh) -> None:
    link = pair.links[A_TO_B]
    arrived = []
    with pair.client("a") as client:
        for turn in range(4):
            link.set(Mode.CUT)
            digests = push(client, f"flap {turn}", 50)
            pass_time(0.3)
            link.set(Mode.OPEN)
            with pair.client("b") as there:
                wait_until(lambda: not there.find_missing(digests), "progress")  # noqa: B023
            arrived.append(len(digests))
    assert arrived == [50] * 4


@pytest.mark.parametrize("mode", [Mode.DEAF, Mode.SILENT])
def test_r17_a_direction_that_drops_everything_hangs_nothing(pair: Mesh, mode: Mode) -> None:
    link = pair.links[A_TO_B]
    link.set(mode)
    with pair.client("a") as client:
        client.timeout_s = 30  # a push waits for no peer
        push(client, f"r17 {mode}", 100)
        client.write(noise(f"r17 {mode}", 2 * 2**20))
    wait_until(lambda: pair.peer("a", "b")["state"] == "unreachable", "it is cut")
    link.set(Mode.OPEN)


def test_r03_what_a_peer_missed_comes_in_order_and_memory_stays_flat(pair: Mesh) -> None:
    caught_up_after(pair, 2000)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_r03_100000_objects_that_a_peer_missed(pair: Mesh) -> None:
    caught_up_after(pair, 100_000)


def caught_up_after(pair: Mesh, blobs: int) -> None:
    """Push while b is down, and look at how it gets all that once it is up."""
    pair.nodes["b"].kill()
    held = pair.held("a").blobs
    with pair.client("a") as client:
        push(client, "warm", 1000)
        before_bytes = pair.nodes["a"].rss_bytes()
        digests = push(client, f"missed {blobs}", blobs)
    wait_until(lambda: pair.peer("a", "b")["lag-objects"] >= blobs, "the lag is shown")
    assert pair.nodes["a"].rss_bytes() - before_bytes < 64 * 2**20
    pair.start("b")
    pair.wait_until_idle(within_s=30 + blobs / 500)
    with pair.client("b") as there:
        for at in range(0, len(digests), 10_000):
            assert not there.find_missing(digests[at : at + 10_000])
    new_bytes = sum(size for _, size in pair.held("b").blobs - held)
    assert pair.received_bytes("b") <= new_bytes + IN_FLIGHT_BYTES


def test_a_peer_frozen_under_load(pair: Mesh, tmp_path: Path) -> None:
    frozen_for(pair, tmp_path, 4)  # longer than a call may take


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_a_peer_frozen_for_a_minute_under_load(pair: Mesh, tmp_path: Path) -> None:
    frozen_for(pair, tmp_path, 60)


def frozen_for(pair: Mesh, tmp_path: Path, seconds: float) -> None:
    with Oracle(tmp_path / "journal") as oracle:
        address = pair.nodes["a"].address
        with Load(address, oracle, seconds, workers=2, large_bytes=2**20, pause_s=0.02) as load:
            load.wait_for_calls(20)
            pair.nodes["b"].pause()
            calls = load.done.calls
            pass_time(seconds)
            assert load.done.calls > calls  # nobody's push waits for it
            pair.nodes["b"].resume()
            pass_time(0.5)
        assert not load.done.faults, load.done.faults[:5]
        settle(pair, within_s=30 + 2 * seconds)  # what was written in that time is still to be sent
        with pair.client("b") as there:
            oracle.verify(there).check()


def test_r18_small_objects_do_not_wait_behind_a_large_one(tmp_path: Path) -> None:
    with Mesh(tmp_path, ONE_WAY, peer=PATIENT, bytes_s=500_000) as mesh:
        mesh.start()
        mesh.wait_until_idle()
        with mesh.client("a") as client, mesh.client("b") as there:
            large = noise("large", 4_000_000)
            client.write(large)
            pass_time(0.3)  # it is on its way
            digests = push(client, "small", 100, size=1000)
            name_all(client, "small", digests)
            wait_until(lambda: not there.find_missing(digests), "the small ones")
            assert there.find_missing([digest_of(large)]), "the large one was faster"
            wait_until(lambda: there.fetch_blob("urn:example:small:90"), "their names")
            settle(mesh)
            assert mesh.links[A_TO_B].carried[0] < 1.5 * (len(large) + 100 * BLOB_BYTES)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_r18_10000_small_objects_behind_64_mib_at_256_kbit_s(tmp_path: Path) -> None:
    with Mesh(tmp_path, ONE_WAY, peer=PATIENT, bytes_s=32_000) as mesh:
        link = mesh.links[A_TO_B]
        mesh.start()
        mesh.wait_until_idle(within_s=60)
        with mesh.client("a") as client, mesh.client("b") as there:
            client.write(noise("large", 64 * 2**20))
            pass_time(2)
            digests = push(client, "small", 10_000, size=200)
            wait_until(lambda: not there.find_missing(digests), "the small ones", timeout_s=600)
            wait_until(lambda: mesh.peer("a", "b")["lag-objects"] == 1, "only it is under way")
            link.bytes_s = 0
            settle(mesh, within_s=120)
