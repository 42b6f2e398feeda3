"""Upstreams that hang, trickle or are cut off without a word: the next one is asked, nobody waits
for good, and what needs no upstream is not slowed down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from federation.core.digest import digest_of
from tests.faults.upstream.site import PUSHER, Site, state, upstream
from tests.remote.blobs import noise
from tests.remote.fake_server import Context, hangs, hangs_after, trickles
from tests.support.own_network import drop_packets, in_own_network
from tests.support.process_client import action_result, outcome

SIZE = 3 * 2**20
DATA = noise(SIZE)
SMALL = noise(5000)
ACTION = digest_of(b"action")


@pytest.mark.parametrize("at_bytes", [0, 2**20])
async def test_u04_a_stream_that_falls_silent_is_continued_by_the_next(
    site: Site, at_bytes: int
) -> None:
    bad, good = await site.fakes(2)
    digest = bad.holds(DATA)
    good.holds(DATA)
    bad.streams = hangs_after(at_bytes)
    node = site.node(upstream("bad", bad.address), upstream("good", good.address))
    local = noise(100_000, seed=2)
    await site.off(site.client(node, PUSHER).write, local)
    reading = asyncio.ensure_future(site.read(node, digest))
    await site.until(lambda: bad.calls("Read"), "the read to begin")
    for _ in range(5):
        assert await site.off(site.client(node).read, digest_of(local)) == local
    assert await reading == DATA
    assert len(good.calls("Read")) == 1


async def test_u04_one_that_takes_connections_and_says_nothing_is_passed_over(
    site: Site,
) -> None:
    silent, good = await site.silent(), await site.fake()
    large, small = good.holds(DATA), good.holds(SMALL)
    good.results[ACTION.hash_hex] = action_result([("out", small)]).SerializeToString()
    patient = {"connection-config": {"request-timeout": "20s", "retry-limit": 0}}
    node = site.node(upstream("silent", silent.address, **patient), upstream("good", good.address))
    client = site.client(node, timeout_s=12)
    found = await asyncio.gather(
        site.off(client.read, large),
        site.off(client.batch_read, [small]),
        site.off(client.get_action_result, ACTION),
    )
    assert found[0] == DATA
    assert found[1] == {small: SMALL}
    assert found[2] is not None
    assert silent.connections > 0


async def test_u04_one_that_never_answers_is_left_alone_after_a_while(site: Site) -> None:
    bad, good = await site.fakes(2)
    bad.does = dict.fromkeys(("FindMissingBlobs", "BatchReadBlobs", "GetActionResult"), hangs)
    blobs = {good.holds(noise(1000, seed=seed)): noise(1000, seed=seed) for seed in range(12)}
    node = site.node(
        upstream("bad", bad.address, **{"hedge-delay": "100ms"}), upstream("good", good.address)
    )
    client = site.client(node)
    for digest, data in blobs.items():
        assert await site.off(client.batch_read, [digest]) == {digest: data}
    assert state(node, "bad")["state"] in {"down", "probing"}
    assert len(bad.calls("BatchReadBlobs")) <= 8


async def test_u05_a_trickle_is_left_for_the_next_upstream(site: Site) -> None:
    bad, good = await site.fakes(2)
    digest = bad.holds(DATA)
    good.holds(DATA)
    bad.streams = trickles(0.5)
    node = site.node(upstream("bad", bad.address), upstream("good", good.address))
    assert await site.read(node, digest) == DATA
    assert len(bad.calls("Read")) == len(good.calls("Read")) == 1


async def test_u05_a_trickle_from_the_only_upstream_is_kept_until_the_deadline(
    site: Site,
) -> None:
    slow = await site.fake()
    digest = slow.holds(DATA)
    slow.streams = trickles(0.5)
    node = site.node(upstream("slow", slow.address))
    client, got = site.client(node, timeout_s=3), bytearray()

    def read_all() -> None:
        for chunk in client.read_chunks(digest):
            got.extend(chunk)

    assert await site.off(outcome, read_all) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert DATA.startswith(bytes(got))
    assert len(slow.calls("Read")) == 1
    assert state(node, "slow")["state"] == "up"


async def test_u14_find_missing_does_not_wait_for_an_upstream_that_hangs(site: Site) -> None:
    hung, good = await site.fakes(2)
    hung.does["FindMissingBlobs"] = hangs
    there, nowhere, local = good.holds(SMALL), digest_of(b"nowhere"), noise(3000, seed=3)
    node = site.node(
        upstream("hung", hung.address, **{"connection-config": {"request-timeout": "200s"}}),
        upstream("good", good.address),
    )
    reader, pusher = site.client(node), site.client(node, PUSHER)
    await site.off(pusher.batch_update, [local])
    asked = [there, nowhere, digest_of(local)]
    assert await site.off(reader.find_missing, asked) == {nowhere}
    assert await site.off(pusher.find_missing, asked) == {there, nowhere}
    assert len(hung.calls("FindMissingBlobs")) >= 1


async def test_u23_a_transfer_whose_packets_vanish_is_continued_by_the_next(site: Site) -> None:
    bad, good = await site.fakes(2)
    digest = bad.holds(DATA)
    good.holds(DATA)
    proxy = await site.proxy(bad.address)

    async def freezes(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        yield data[: SIZE // 2]
        proxy.freeze()
        yield data[SIZE // 2 :]

    bad.streams = freezes
    node = site.node(upstream("bad", proxy.address), upstream("good", good.address))
    assert await site.read(node, digest) == DATA
    assert len(good.calls("Read")) == 1
    proxy.thaw()


@pytest.mark.heavy
async def test_u23_packets_that_the_network_drops_are_noticed_and_the_next_goes_on(
    site: Site, request: pytest.FixtureRequest
) -> None:
    if not in_own_network(request):
        return
    bad, good = await site.fakes(2)
    digest = bad.holds(DATA)
    good.holds(DATA)

    async def vanishes(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        yield data[: SIZE // 2]
        await asyncio.to_thread(drop_packets, int(bad.address.rpartition(":")[2]))
        yield data[SIZE // 2 :]

    bad.streams = vanishes
    node = site.node(
        # The waits that a node has without being told otherwise.
        {"name": "bad", "url": f"grpc://{bad.address}"},
        upstream("good", good.address),
    )
    began_s = asyncio.get_running_loop().time()
    assert await site.read(node, digest) == DATA
    assert asyncio.get_running_loop().time() - began_s < 30
    assert len(good.calls("Read")) == 1
    assert "nothing came for 10 s" in state(node, "bad")["last-error"]


async def test_u26_a_client_whose_time_is_up_hears_so_and_leaves_nothing_behind(
    site: Site,
) -> None:
    gate = asyncio.Event()
    ended = asyncio.Event()

    async def waits(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        try:
            yield data[: SIZE // 10]
            await gate.wait()
            yield data[SIZE // 10 :]
        finally:
            ended.set()

    slow = await site.fake()
    digest = slow.holds(DATA)
    slow.streams = waits
    node = site.node(upstream("slow", slow.address, **{"connection-config": {"stall": "30s"}}))
    client = site.client(node, timeout_s=3)
    late = await site.off(outcome, lambda: client.read(digest))
    assert late is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(60):
        await ended.wait()  # less than half had come, and nobody waits for it any more
    gate.set()
    assert await site.read(node, digest) == DATA


async def test_u26_a_small_blob_is_kept_for_the_next_who_asks(site: Site) -> None:
    gate = asyncio.Event()
    slow = await site.fake()
    digest = slow.holds(SMALL)

    async def waits(request: bytes, context: Context) -> bytes:
        await gate.wait()
        return await slow._BatchReadBlobs(request, context)

    slow.does["BatchReadBlobs"] = waits
    node = site.node(
        upstream("slow", slow.address, **{"connection-config": {"request-timeout": "60s"}})
    )
    client = site.client(node, timeout_s=3)
    late = await site.off(outcome, lambda: client.batch_read([digest]))
    assert late is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.set()
    pusher = site.client(node, PUSHER)
    await site.until(lambda: not pusher.find_missing([digest]), "the blob to be kept")
    assert len(slow.calls("BatchReadBlobs")) == 1
