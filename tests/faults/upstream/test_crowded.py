"""Upstreams that are there and take only so much at once: patient readers are all served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.faults.upstream.site import Site, state, upstream
from tests.remote.blobs import noise
from tests.remote.fake_server import Context, FakeServer, as_it_is, fails_after
from tests.support.crowded_server import CrowdedServer
from tests.support.process_client import outcome

READERS = 80
PATIENT = {"connection-config": {"stall": "2s", "request-timeout": "60s"}}
BLOBS = [noise(300_000, seed=seed) for seed in range(READERS)]


@pytest.mark.parametrize("announces", [False, True], ids=["refuses", "announces"])
async def test_u07_all_readers_are_served_by_an_upstream_that_takes_a_few_at_once(
    site: Site, announces: bool
) -> None:
    async with CrowdedServer(9, 0.2, announces=announces) as crowded:
        digests = [crowded.holds(data) for data in BLOBS]
        node = site.node(upstream("crowded", crowded.address, **PATIENT))
        client = site.client(node, timeout_s=90)
        reads = [site.off(client.read, digest) for digest in digests]
        assert await asyncio.gather(*reads) == BLOBS
        assert crowded.served >= READERS
        assert crowded.most_at_once <= 11  # besides reads, it is asked what it can do
        shown = state(node, "crowded")
        assert shown["state"] == "up"
        if not announces:
            assert crowded.refused > 0
            assert shown["silences"] == 0


async def test_u07_those_that_it_took_are_served_though_others_wait_behind_them_for_long(
    site: Site,
) -> None:
    # gRPC holds calls back beyond what the upstream announced: longer than a stall, here.
    async with CrowdedServer(2, 1.0, announces=True) as crowded:
        blobs = BLOBS[:12]
        digests = [crowded.holds(data) for data in blobs]
        node = site.node(upstream("crowded", crowded.address, **PATIENT))
        client = site.client(node, timeout_s=90)
        assert await asyncio.gather(*(site.off(client.read, d) for d in digests)) == blobs
        assert state(node, "crowded")["state"] == "up"


async def test_u07_one_that_asks_for_patience_is_asked_again_by_those_who_wait(
    site: Site,
) -> None:
    busy = await site.fake()
    digests = [busy.holds(data) for data in BLOBS[:30]]
    running, refused = 0, asyncio.Event()

    async def three_at_once(data: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal running
        if running >= 3:
            refused.set()
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        running += 1
        try:
            await refused.wait()  # so that a fourth comes meanwhile, however slow the machine is
            await asyncio.sleep(0.1)
            async for part in as_it_is(data, context):
                yield part
        finally:
            running -= 1

    busy.streams = three_at_once
    node = site.node(upstream("busy", busy.address, **{"connection-config": {"stall": "60s"}}))
    client = site.client(node, timeout_s=90)
    assert await asyncio.gather(*(site.off(client.read, d) for d in digests)) == BLOBS[:30]
    assert state(node, "busy")["state"] in {"up", "resting"}
    assert state(node, "busy")["silences"] == 0
    answers = "federation_upstream_answers_total"
    assert node.metrics().value(answers, upstream="busy", result="busy") > 0


async def test_u07_one_that_refuses_for_ever_is_a_miss_in_the_end_and_not_a_wait_without_end(
    site: Site,
) -> None:
    busy = await site.fake()
    digest = busy.holds(BLOBS[0])

    busy.streams = fails_after(0, grpc.StatusCode.RESOURCE_EXHAUSTED)
    node = site.node(upstream("busy", busy.address))
    client = site.client(node, timeout_s=90)
    assert await site.off(outcome, lambda: client.read(digest)) is grpc.StatusCode.NOT_FOUND
    assert len(busy.calls("Read")) < 40
    busy.streams = FakeServer().streams
    await site.until(
        lambda: outcome(lambda: client.read(digest)) is grpc.StatusCode.OK, "it to be asked again"
    )


async def test_an_upstream_that_was_never_asked_is_not_called_up(site: Site) -> None:
    there = await site.fake()
    digest = there.holds(BLOBS[0])
    node = site.node(upstream("there", there.address))
    assert state(node, "there")["state"] == "untried"
    assert await site.read(node, digest) == BLOBS[0]
    assert state(node, "there")["state"] == "up"
