"""Purges outlive whoever was away, whatever became of the change log meanwhile.

In virtual time, over the nodes of the simulation. Purges are kept for a quarter of an hour; one
node is away for three times as long, or sends and is never told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from federation.core.digest import digest_of
from federation.core.replication_log import Lane
from tests.replication.here import asset_of
from tests.replication.simulation import CALM, TOPOLOGIES, Edges, Node, Simulation
from tests.replication.virtual_time import run

pytestmark = pytest.mark.slow

KEEP_S, AWAY_S = 900.0, 2700
BLOB, OTHER = b"secret", b"harmless"
DIGEST = digest_of(BLOB)
ENTRY = asset_of("urn:poisoned", digest_of(OTHER))


async def mesh(edges: Edges) -> list[Node]:
    """Nodes that all hold the secret and the poisoned entry, wherever that was pushed."""
    nodes = Simulation(1, edges, CALM, pushes=0).nodes
    for node in nodes:
        node.start()
    first = nodes[0].storage
    first.take(DIGEST, BLOB)
    first.take(digest_of(OTHER), OTHER)
    first.put_one(ENTRY)
    await until(lambda: all(DIGEST in n.storage.blobs for n in nodes))
    await until(lambda: all(ENTRY.key in n.storage.entries for n in nodes))
    return nodes


async def until(condition: Callable[[], bool]) -> None:
    """Wait for at most an hour of virtual time."""
    for _ in range(3600):
        if condition():
            return
        await asyncio.sleep(1)
    pytest.fail("not within an hour")


async def pass_time(seconds: int, *nodes: Node) -> None:
    """Let time pass, in which these nodes look after what they remember."""
    for _ in range(seconds // 100):
        await asyncio.sleep(100)
        for node in nodes:
            node.storage.forget_purges(KEEP_S)


def is_clean(node: Node) -> bool:
    storage = node.storage
    return DIGEST not in storage.blobs and ENTRY.key not in storage.entries


def purge(node: Node) -> None:
    node.storage.purges.purge_one(DIGEST)
    node.storage.purges.purge_one(ENTRY.key)


@pytest.mark.parametrize("trims", [False, True])
def test_r30_a_peer_that_was_away_for_longer_than_purges_are_kept_is_told(trims: bool) -> None:
    async def away() -> None:
        one, two, three = await mesh(TOPOLOGIES["mesh3"])
        await three.crash()
        purge(one)
        await until(lambda: is_clean(two))
        await pass_time(AWAY_S, one, two)
        if trims:  # so that the one that was away needs a resync
            for node in (one, two):
                node.storage.take(digest_of(b"newer"), b"newer")
                node.storage.trim(node.storage.head)
        three.start()
        await until(lambda: is_clean(three))
        await pass_time(AWAY_S, one, two, three)
        assert all(is_clean(node) for node in (one, two, three))
        assert all(not node.storage.purges.records for node in (one, two, three))
        for node in (one, two, three):
            await node.stop()

    run(away())


def test_r30_what_an_untold_sender_offers_again_and_again_is_kept_out_for_good() -> None:
    async def untold() -> None:
        sender, receiver = await mesh(TOPOLOGIES["one-way"])
        purge(receiver)
        await pass_time(AWAY_S, receiver)
        assert is_clean(receiver)
        assert not is_clean(sender)  # nobody tells it
        assert set(receiver.storage.purges.records) == {DIGEST, ENTRY.key}
        for node in (sender, receiver):
            await node.stop()

    run(untold())


def test_r30_a_dropped_peer_is_not_waited_for() -> None:
    async def dropped() -> None:
        one, two, three = await mesh(TOPOLOGIES["mesh3"])
        await three.crash()
        purge(one)
        await until(lambda: is_clean(two))
        for node in (one, two):
            await node.stop()
            del node.storage.records["n2", Lane.ALWAYS]
            del node.wires["n2"]
            node.start()
        await pass_time(AWAY_S, one, two)
        assert not one.storage.purges.records
        for node in (one, two):
            await node.stop()

    run(dropped())


def test_r30_a_push_by_who_was_away_and_was_told_brings_it_back() -> None:
    async def again() -> None:
        one, two, three = await mesh(TOPOLOGIES["mesh3"])
        await three.crash()
        purge(one)
        await pass_time(AWAY_S, one, two)
        three.start()
        await until(lambda: is_clean(three))
        three.storage.take(DIGEST, BLOB)
        three.storage.put_one(ENTRY)
        await until(lambda: not any(is_clean(node) for node in (one, two, three)))
        for node in (one, two, three):
            await node.stop()

    run(again())
