"""Peers and senders that are not what they were: new, wiped, put back from a backup, dropped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.faults.replication.mesh import Mesh
from tests.faults.replication.work import BLOB_BYTES, name_all, push, settle
from tests.faults.storage.clean import catalogue
from tests.support.polling import wait_until
from tests.support.process import Node, federation, merged

ONE_WAY = [("a", "b")]
_SLACK_BYTES = 50 * BLOB_BYTES


def without_peers(node: Node) -> None:
    """Let a node, once started again, have no peer configured."""
    node.settings = merged(node.settings, {"peers": []})


def backfilled(folder: Path, objects: int, within_s: float) -> None:
    """A peer is added to a node that holds a lot; a kill of each in the middle changes nothing."""
    with Mesh(folder, ONE_WAY) as mesh:
        a = mesh.nodes["a"]
        settings = a.settings
        without_peers(a)
        mesh.start()
        with mesh.client("a") as here, mesh.client("b") as there:
            digests = push(here, "r12", objects)
            name_all(here, "r12", digests[: objects // 4], each=50)
            push(there, "r12", objects // 2)  # what it has already is not sent
        a.stop()
        before_bytes = mesh.received_bytes("b")
        a.settings = settings
        mesh.start("a")
        wait_until(lambda: mesh.sent("a", "b") > objects // 20, "some of it", timeout_s=60)
        a.kill()
        mesh.start("a")
        with mesh.client("a") as here, mesh.client("b") as there:
            live = push(here, "live", 20)
            wait_until(lambda: not there.find_missing(live), "live traffic")
        settle(mesh, within_s)
        lacked_bytes = (objects - objects // 2 + len(live)) * BLOB_BYTES
        came_bytes = mesh.received_bytes("b") - before_bytes
        assert came_bytes <= lacked_bytes + max(16 * 2**20, _SLACK_BYTES)  # in flight at the kill


def test_r12_a_new_peer_gets_what_is_here_through_a_kill(tmp_path: Path) -> None:
    backfilled(tmp_path, 2000, 60)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_r12_a_new_peer_of_a_node_with_300000_objects(tmp_path: Path) -> None:
    backfilled(tmp_path, 300_000, 1800)


def test_r20_a_wiped_peer_gets_everything_back(pair: Mesh) -> None:
    with pair.client("a") as client:
        digests = push(client, "r20", 300)
        name_all(client, "r20", digests)
    settle(pair)
    held = pair.held("a")
    old_id = pair.peer("a", "b")["node-id"]
    pair.nodes["b"].kill()
    shutil.rmtree(pair.nodes["b"].data_dir)
    with pair.client("a") as client:
        push(client, "r20 meanwhile", 50)
    pair.start("b")
    settle(pair)
    assert pair.peer("a", "b")["node-id"] not in {old_id, ""}
    now = pair.held("b")
    assert held.blobs <= now.blobs
    assert held.entries.items() <= now.entries.items()
    assert "another data directory answers" in pair.nodes["a"].log
    received = sum(size for _, size in now.blobs)
    assert pair.received_bytes("b") <= received + _SLACK_BYTES


@pytest.mark.parametrize("who", ["a", "b"])
def test_r21_a_node_put_back_from_a_backup(pair: Mesh, tmp_path: Path, who: str) -> None:
    other = "b" if who == "a" else "a"
    node = pair.nodes[who]
    with pair.client(who) as client:
        push(client, f"r21 {who} before", 50)
    settle(pair)
    node.stop()
    shutil.copytree(node.data_dir, tmp_path / "backup")
    pair.start(who)
    with pair.client(who) as client, pair.client(other) as there:
        push(client, f"r21 {who} lost", 60)
        push(there, f"r21 {who} given", 60)
    settle(pair)
    pair.nodes[other].stop()
    pair.start(other)  # it meets it anew, and notes how far its log goes
    wait_until(lambda: seen_by(pair, other) == pair.head(who), "its log's end is noted")
    node.kill()
    shutil.rmtree(node.data_dir)
    shutil.copytree(tmp_path / "backup", node.data_dir)
    pair.start(who)
    with pair.client(who) as client, pair.client(other) as there:
        reused = push(client, f"r21 {who} under reused numbers", 40)
        wait_until(lambda: not there.find_missing(reused), "they are sent")
    settle(pair)  # what the backup did not have comes back from the other one


def seen_by(mesh: Mesh, name: str) -> int:
    """How far a node knows the log of its one peer to go."""
    with catalogue(mesh.nodes[name].data_dir) as connection:
        ((seen,),) = connection.execute("SELECT log_seen FROM peer").fetchall()
    return int(str(seen).rpartition(".")[2] or 0)


def test_r22_lost_cursors_on_both_sides_leave_no_gap(pair: Mesh) -> None:
    with pair.client("a") as client:
        push(client, "r22", 100)
    settle(pair)
    damages = {"a": "DELETE FROM peer", "b": "UPDATE peer SET cursor = 99999999"}
    for name, damage in damages.items():
        pair.nodes[name].stop()
        with catalogue(pair.nodes[name].data_dir, write=True) as connection:
            connection.execute(damage)
    pair.start()
    before = {name: pair.head(name) for name in pair.nodes}
    pair.wait_until_idle()
    assert {name: pair.head(name) for name in pair.nodes} == before
    assert sum(pair.received_bytes(name) for name in pair.nodes) == 0
    for name in pair.nodes:
        with pair.client(name) as client:
            push(client, f"r22 {name}", 20)
    settle(pair)


def test_r23_a_log_past_its_bound_ends_in_a_reconcile_of_the_difference(tmp_path: Path) -> None:
    past_its_bound(tmp_path, 2000)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_r23_a_peer_away_for_200000_objects(tmp_path: Path) -> None:
    past_its_bound(tmp_path, 200_000)


def past_its_bound(folder: Path, objects: int) -> None:
    """As after 30 days: the log has forgotten what the peer lacks."""
    storage = {"log-max-rows": 1000}
    with Mesh(folder, ONE_WAY, storage=storage) as mesh:
        mesh.start()
        with mesh.client("a") as client:
            push(client, "known", 500)
        settle(mesh)
        before_bytes = mesh.received_bytes("b")
        mesh.nodes["b"].stop()
        with mesh.client("a") as client:
            digests = push(client, "missed", objects)
            name_all(client, "missed", digests[:500], each=50)

        def marked() -> bool:
            lanes = mesh.peer("a", "b")["lanes"]
            return bool(lanes["always"]["state"] == "needs-resync")

        wait_until(marked, "it is marked")
        wait_until(lambda: rows_of(mesh.nodes["a"]) <= 1300, "the log is trimmed")
        assert "needs_resync" in mesh.nodes["a"].log or "given_up" in mesh.nodes["a"].log
        mesh.start("b")
        settle(mesh, within_s=30 + objects / 300)
        assert before_bytes == 500 * BLOB_BYTES
        came_bytes = mesh.received_bytes("b")  # of the new process: the difference and no more
        assert objects * BLOB_BYTES <= came_bytes <= objects * BLOB_BYTES + _SLACK_BYTES


def rows_of(node: Node) -> int:
    """How long a node's change log is now."""
    with catalogue(node.data_dir) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM log").fetchall()
    return int(str(count))


def test_r11_dropping_a_peer_that_lacks_something_has_to_be_said(tmp_path: Path) -> None:
    with Mesh(tmp_path, ONE_WAY) as mesh:
        a = mesh.nodes["a"]
        mesh.start()
        mesh.wait_until_idle()
        mesh.nodes["b"].kill()
        with mesh.client("a") as client:
            push(client, "r11", 30)
        a.stop()
        without_peers(a)
        place = ["--data-dir", str(a.data_dir)]
        refused = federation("drop-peer", "b", *place)
        assert refused.returncode != 0
        assert "30" in refused.stderr
        assert "--lose-unacknowledged" in refused.stderr
        done = federation("drop-peer", "b", "--lose-unacknowledged", "--json", *place)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["dropped"] == "b"
        assert "30" in done.stdout + done.stderr  # counted
        a.start()
        shown = mesh.status("a")
        assert shown.get("left-peers", []) == []
