"""A peer that has no room: its quota is full of what is leased, or its disk of other things."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from tests.faults.replication.mesh import Mesh
from tests.faults.replication.work import name_all, noise, push, settle
from tests.faults.storage.disks import fill, tmpfs
from tests.support.polling import pass_time, wait_until
from tests.support.process import merged
from tests.support.process_client import outcome

ONE_WAY = [("a", "b")]
MIB = 2**20


def wait_until_full(mesh: Mesh) -> None:
    """Wait until the sender says that its peer has no room, and see that it is left alone."""
    wait_until(lambda: mesh.peer("a", "b")["state"] == "full", "it is full")
    assert mesh.peer("a", "b")["lag-objects"] > 0
    wait_until(lambda: mesh.peer("a", "b")["next-try-in-s"] > 1, "it is left alone")
    before = mesh.carried_bytes()
    pass_time(0.5)
    assert mesh.carried_bytes() - before < 5 * MIB  # one try, of no more than three blobs


@pytest.mark.heavy
def test_r10_a_peer_whose_quota_is_full_gets_the_rest_when_it_is_larger(tmp_path: Path) -> None:
    with Mesh(tmp_path, ONE_WAY) as mesh:
        b = mesh.nodes["b"]
        b.settings = merged(b.settings, {"storage": {"quota": "6M"}})
        mesh.start()
        mesh.wait_until_idle()
        with mesh.client("a") as client:
            for turn in range(12):
                client.write(noise(f"large {turn}", MIB))
            name_all(client, "r10", push(client, "r10", 50))
        wait_until_full(mesh)
        assert mesh.peer("a", "b")["parked"] == 0
        larger = merged(yaml.safe_load(b.config_path.read_text()), {"storage": {"quota": "100M"}})
        b.config_path.write_text(yaml.safe_dump(larger))
        b.settings = merged(b.settings, {"storage": {"quota": "100M"}})
        b.signal(signal.SIGHUP)
        settle(mesh, within_s=100)  # what was refused several times is tried ever more rarely


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a file system and needs root")
    with tmpfs(tmp_path / "small", size="64m") as mounted:
        yield mounted


@pytest.mark.parametrize("who", ["a", "b"])
def test_r10_a_disk_that_others_fill(small_disk: Path, tmp_path: Path, who: str) -> None:
    with Mesh(tmp_path, ONE_WAY) as mesh:
        node = mesh.nodes[who]
        node.data_dir = small_disk / "data"
        # Its log is elsewhere already: Node keeps it beside the folder it was given.
        node.settings = merged(node.settings, {"storage": {"reserve": 0}})
        mesh.start()
        mesh.wait_until_idle()
        with mesh.client("a") as client:
            digests = push(client, "before", 100)
            settle(mesh)
            filler = fill(small_disk)
            if who == "b":
                for turn in range(4):
                    client.write(noise(f"large {turn}", MIB))
                push(client, "meanwhile", 50)
                wait_until_full(mesh)
            else:  # no write is taken any more, and what was taken is read as ever
                refused = outcome(lambda: client.write(noise("refused", MIB)))
                assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert len(client.batch_read(digests)) == len(digests)
            filler.unlink()
            wait_until(lambda: _takes(mesh), "there is room again")
        settle(mesh)


def _takes(mesh: Mesh) -> bool:
    """Whether a takes a write."""
    with mesh.client("a") as client:
        done = outcome(lambda: client.write(noise("afterwards", MIB)))
    assert done in {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    return done is grpc.StatusCode.OK
