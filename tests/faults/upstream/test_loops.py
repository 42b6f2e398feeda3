"""Nodes that are each other's upstreams: a miss goes once around and ends, and nobody waits for
who waits for it.
"""

from __future__ import annotations

import asyncio

import pytest

from federation.core.digest import digest_of
from tests.faults.upstream.site import PUSHER, Site, state, status, upstream
from tests.remote.blobs import noise
from tests.remote.fake_server import refusing_address
from tests.support.process import Node
from tests.support.process_client import outcome

LARGE, SMALL = noise(600_000), noise(900)
URI = "urn:test:name"
PATIENT = {"connection-config": {"stall": "20s", "request-timeout": "20s"}, "hedge-delay": "20s"}


def ring(site: Site, size: int) -> list[Node]:
    """Start nodes each of which pulls from the next, and the last one from the first."""
    addresses = [refusing_address() for _ in range(size)]
    return [
        site.node(
            upstream(f"next-of-{at}", addresses[(at + 1) % size], **PATIENT),
            name=f"node-{at}",
            listeners=[{"address": address}, {"address": "127.0.0.1:0", "push": True}],
        )
        for at, address in enumerate(addresses)
    ]


def calls(node: Node, method: str) -> int:
    return int(node.metrics().value("federation_requests_total", method=method))


METHODS = (
    "google.bytestream.ByteStream/Read",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    "build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    "build.bazel.remote.execution.v2.ActionCache/GetActionResult",
    "build.bazel.remote.asset.v1.Fetch/FetchBlob",
)


def ask_all(site: Site, node: Node, seed: int) -> None:
    """Ask in every way for what nobody has. The client's deadline is what a miss may take."""
    client = site.client(node, timeout_s=15)
    large, small = digest_of(noise(600_000, seed=seed)), digest_of(noise(900, seed=seed))
    assert outcome(lambda: client.read(large)).name == "NOT_FOUND"
    assert client.batch_read([small]) == {}
    assert client.find_missing([large, small]) == {large, small}
    assert client.get_action_result(small) is None
    assert client.fetch_blob(f"urn:test:{seed}") is None


@pytest.mark.parametrize("size", [2, 3])
async def test_u17_a_miss_costs_each_node_of_a_ring_one_request_and_ends_quickly(
    site: Site, size: int
) -> None:
    nodes = ring(site, size)
    for seed in (1, 2):
        await site.off(ask_all, site, nodes[0], seed)
    for method in METHODS:
        asked = [calls(node, method) for node in nodes]
        # The first node is asked by its client, and by the last node at the end of the round.
        assert asked[0] <= 4, (method, asked)
        assert all(each <= 2 for each in asked[1:]), (method, asked)
        if not method.endswith("FindMissingBlobs"):  # the reads have told that already
            assert all(asked[1:]), (method, asked)


@pytest.mark.parametrize("size", [2, 3])
async def test_u17_nodes_of_a_ring_that_are_asked_at_once_do_not_wait_for_each_other(
    site: Site, size: int
) -> None:
    nodes = ring(site, size)
    for seed in range(4):
        async with asyncio.timeout(60):
            await asyncio.gather(*(site.off(ask_all, site, node, seed) for node in nodes))


@pytest.mark.parametrize("size", [2, 3])
async def test_u17_what_one_node_of_a_ring_has_is_found_from_every_other(
    site: Site, size: int
) -> None:
    nodes = ring(site, size)
    pusher = site.client(nodes[-1], PUSHER)
    await site.off(pusher.write, LARGE)
    await site.off(pusher.batch_update, [SMALL])
    await site.off(pusher.push_blob, URI, digest_of(SMALL))
    for node in nodes:
        client = site.client(node, timeout_s=15)
        assert await site.off(client.fetch_blob, URI) == digest_of(SMALL)
        assert await site.off(client.batch_read, [digest_of(SMALL)]) == {digest_of(SMALL): SMALL}
        assert await site.off(client.read, digest_of(LARGE)) == LARGE


async def test_u17_what_a_node_was_not_told_because_it_was_on_the_way_is_no_miss_to_its_clients(
    site: Site,
) -> None:
    """A asks B, which asks A back in vain; then A has it from elsewhere, and B's client asks."""
    there = await site.fake()
    digest = there.holds(LARGE)
    first, second = refusing_address(), refusing_address()
    listeners = [{"address": first}, {"address": "127.0.0.1:0", "push": True}]
    a = site.node(
        upstream("b", second, **PATIENT),
        upstream("there", there.address),
        name="a",
        listeners=listeners,
    )
    b = site.node(upstream("a", first, **PATIENT), name="b", listeners=[{"address": second}])
    await site.until(lambda: state(b, "a")["state"] == "untried", "b to be there")
    assert await site.read(a, digest) == LARGE
    assert await site.read(b, digest) == LARGE
    assert len(there.calls("Read")) == 1


async def test_u18_a_node_that_is_its_own_upstream_says_so_once_and_leaves_itself_out(
    site: Site,
) -> None:
    address = refusing_address()
    there = await site.fake()
    digest = there.holds(LARGE)
    node = site.node(
        upstream("there", there.address),
        upstream("me", address.replace("127.0.0.1", "localhost"), **PATIENT),
        listeners=[{"address": address}, {"address": "127.0.0.1:0", "push": True}],
    )
    await site.off(ask_all, site, node, 11)
    await site.until(lambda: state(node, "me")["state"].startswith("ignored"), "it to notice")
    before = {method: calls(node, method) for method in METHODS}
    await site.off(ask_all, site, node, 12)
    assert {method: calls(node, method) - before[method] for method in METHODS} == dict.fromkeys(
        METHODS, 1
    )
    assert node.log.count("upstream_is_this_node") == 1
    assert await site.read(node, digest) == LARGE
    names = {each["name"]: each["state"] for each in status(node)["upstreams"]}
    assert names["there"] == "up"
