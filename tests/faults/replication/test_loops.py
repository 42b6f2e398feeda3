"""Nodes that send to one another: each object crosses each link once at most, then it is quiet."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.replication.mesh import CHAIN, MUTUAL, RING, Edge, Mesh, full
from tests.faults.replication.work import BLOB_BYTES, name_all, noise, push, settle
from tests.support.polling import pass_time

_QUIET_S = 1.0
_QUIET_BYTES = 2000  # what keeps connections alive
_SLACK = 1.4  # headers, digests and questions, beside the blobs themselves

TOPOLOGIES: dict[str, Sequence[Edge]] = {
    "chain": CHAIN,
    "ring": RING,
    "three": full("abc"),
    "five": full("abcde"),
}


def run_through(mesh: Mesh, blobs: int) -> None:
    """Push at a, and count what crossed which link."""
    mesh.wait_until_idle()
    before = {edge: (mesh.sent(*edge), mesh.links[edge].carried[0]) for edge in mesh.edges}
    with mesh.client("a") as client:
        digests = push(client, len(mesh.edges), blobs)
        objects = blobs + name_all(client, len(mesh.edges), digests, each=50)
    settle(mesh)
    heads = {name: mesh.head(name) for name in mesh.nodes}
    assert heads == dict.fromkeys(mesh.nodes, objects)  # no node logs anything twice

    sent = {edge: mesh.sent(*edge) - before[edge][0] for edge in mesh.edges}
    assert max(sent.values()) <= objects, sent
    others = len(mesh.nodes) - 1
    assert objects * others <= sum(sent.values()) <= 2 * objects * others, sent
    for edge, link in mesh.links.items():
        crossed_bytes = link.carried[0] - before[edge][1]
        assert crossed_bytes <= _SLACK * blobs * BLOB_BYTES, (edge, crossed_bytes)
    assert all(sent[edge] == 0 for edge in mesh.edges if edge[1] == "a"), sent

    quiet = mesh.carried_bytes()
    pass_time(_QUIET_S)
    assert mesh.carried_bytes() - quiet < _QUIET_BYTES * len(mesh.links)
    assert {name: mesh.head(name) for name in mesh.nodes} == heads


def test_r01_what_a_gives_b_does_not_come_back(tmp_path: Path) -> None:
    with Mesh(tmp_path, MUTUAL) as mesh:
        mesh.start()
        run_through(mesh, 1000)
        assert mesh.sent("b", "a") == 0


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_r02_each_object_crosses_each_link_once_at_most(tmp_path: Path, topology: str) -> None:
    with Mesh(tmp_path, TOPOLOGIES[topology]) as mesh:
        mesh.start()
        run_through(mesh, 100)
        if topology == "five":
            _same_from_everywhere(mesh)


def _same_from_everywhere(mesh: Mesh) -> None:
    """R25: one object from a client and four peers at once is stored once, with one row."""
    heads = {name: mesh.head(name) for name in mesh.nodes}
    data = noise("the same", 200_000)
    clients = [mesh.client(name) for name in mesh.nodes]
    with ThreadPoolExecutor(len(clients)) as pool:
        sizes = list(pool.map(lambda client: client.write(data), clients))
    assert sizes == [len(data)] * len(clients)
    for client in clients:
        client.channel.close()
    settle(mesh)
    assert {name: mesh.head(name) for name in mesh.nodes} == {n: h + 1 for n, h in heads.items()}
