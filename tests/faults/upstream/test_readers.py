"""Many readers of what only an upstream has: it is read once, in bounded memory, and nobody spoils
it for the others.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation._proto.google.bytestream import bytestream_pb2_grpc as bs_grpc
from federation.core.digest import Digest, digest_of
from tests.faults.storage.clean import leftovers
from tests.faults.upstream.site import PUSHER, Site, upstream
from tests.remote.blobs import noise
from tests.remote.fake_server import Context, FakeServer, StreamDoes
from tests.support.process import Node
from tests.support.process_client import outcome

MIB = 2**20
SIZE = 8 * MIB
DATA = noise(SIZE)


def request_for(digest: Digest, offset: int = 0, limit: int = 0) -> bs.ReadRequest:
    name = f"blobs/{digest.hash_hex}/{digest.size_bytes}"
    return bs.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)


async def slices(node: Node, digest: Digest, ranges: list[tuple[int, int]]) -> list[bytes]:
    """Read many ranges at once, over a few connections."""
    channels = [grpc.aio.insecure_channel(node.address) for _ in range(4)]

    async def one(at: int, offset: int, limit: int) -> bytes:
        stub = bs_grpc.ByteStreamStub(channels[at % len(channels)])
        call = stub.Read(request_for(digest, offset, limit), timeout=100)
        return b"".join([answer.data async for answer in call])

    try:
        return await asyncio.gather(*(one(at, *each) for at, each in enumerate(ranges)))
    finally:
        for channel in channels:
            await channel.close(None)


def gated(gate: asyncio.Event, open_bytes: int, ended: asyncio.Event | None = None) -> StreamDoes:
    """Send the first bytes, and the others once the gate is open."""

    async def do(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        try:
            yield data[:open_bytes]
            await gate.wait()
            for at in range(open_bytes, len(data), 512 * 1024):
                yield data[at : at + 512 * 1024]
        finally:
            if ended is not None:
                ended.set()

    return do


def patient(fake: FakeServer) -> dict[str, object]:
    return upstream("there", fake.address, **{"connection-config": {"stall": "60s"}})


async def many(site: Site, readers: int, size: int, slice_bytes: int, grown_max_bytes: int) -> None:
    there = await site.fake()
    data = os.urandom(size)
    digest = there.holds(data)
    gate = asyncio.Event()
    there.streams = gated(gate, 256 * 1024)
    node = site.node(patient(there))
    chance = random.Random(4)
    ranges = [(chance.randrange(size - slice_bytes), slice_bytes) for _ in range(readers)]
    before = node.rss_bytes()
    reading = asyncio.ensure_future(slices(node, digest, ranges))
    running = "federation_requests_running"
    await site.until(lambda: node.metrics().value(running) >= readers, "all readers to wait", 60)
    gate.set()
    found = await reading
    assert found == [data[at : at + limit] for at, limit in ranges]
    assert len(there.calls("Read")) == 1
    saved = node.metrics().value("federation_upstream_reads_saved_total")
    assert saved == readers - 1
    grown = node.rss_bytes() - before
    assert grown < grown_max_bytes, f"{grown / MIB:.0f} MiB"


async def test_u10_hundreds_of_readers_of_one_blob_cost_one_read_and_little_memory(
    site: Site,
) -> None:
    await many(site, 150, 24 * MIB, MIB // 2, 64 * MIB)


@pytest.mark.heavy
@pytest.mark.timeout(600)
async def test_u10_five_hundred_readers_of_a_large_blob(site: Site) -> None:
    await many(site, 500, 1024 * MIB, MIB // 2, 64 * MIB)


async def test_u11_the_first_who_asked_leaves_and_the_others_go_on(site: Site) -> None:
    there = await site.fake()
    digest = there.holds(DATA)
    gate = asyncio.Event()
    there.streams = gated(gate, SIZE // 10)
    node = site.node(patient(there))
    client = site.client(node)
    first = client.bytestream.Read(request_for(digest), timeout=60)
    assert await site.off(lambda: bool(next(first).data))
    others = [asyncio.ensure_future(site.read(node, digest)) for _ in range(5)]
    saved = "federation_upstream_reads_saved_total"
    await site.until(lambda: node.metrics().value(saved) == 5, "the others to join")
    first.cancel()
    gate.set()
    assert await asyncio.gather(*others) == [DATA] * 5
    assert len(there.calls("Read")) == 1


async def test_u11_all_leave_early_and_the_download_stops_and_leaves_nothing(
    site: Site,
) -> None:
    there = await site.fake()
    digest = there.holds(DATA)
    gate, ended = asyncio.Event(), asyncio.Event()
    there.streams = gated(gate, SIZE // 10, ended)
    node = site.node(patient(there))
    client = site.client(node)
    calls = [client.bytestream.Read(request_for(digest), timeout=60) for _ in range(3)]
    for call in calls:
        assert await site.off(lambda call=call: bool(next(call).data))
    for call in calls:
        call.cancel()
    async with asyncio.timeout(60):
        await ended.wait()
    await site.until(lambda: not leftovers(node.data_dir), "the temporary file to go")
    gate.set()
    assert await site.read(node, digest) == DATA


async def test_u11_all_leave_late_and_it_is_finished_and_kept(site: Site) -> None:
    there = await site.fake()
    digest = there.holds(DATA)
    gate = asyncio.Event()
    there.streams = gated(gate, SIZE * 9 // 10 // MIB * MIB)
    node = site.node(patient(there))
    client = site.client(node)
    calls = [client.bytestream.Read(request_for(digest), timeout=60) for _ in range(3)]
    await site.until(
        lambda: node.metrics().value("federation_remote_bytes_total", direction="in") > SIZE // 2,
        "more than half to have come",
    )
    for call in calls:
        assert await site.off(lambda call=call: bool(next(call).data))
        call.cancel()
    await site.until(
        lambda: node.metrics().value("federation_requests_running") == 0, "all to be gone"
    )
    gate.set()
    pusher = site.client(node, PUSHER)
    await site.until(lambda: not pusher.find_missing([digest]), "the blob to be kept")
    assert len(there.calls("Read")) == 1
    await there.stop()
    assert await site.read(node, digest) == DATA


async def test_u12_a_slow_reader_brakes_nobody(site: Site) -> None:
    there = await site.fake()
    digest = there.holds(DATA)
    node = site.node(patient(there))
    slow = site.client(node).bytestream.Read(request_for(digest), timeout=60)
    parts = [await site.off(lambda: next(slow).data)]
    found = await asyncio.gather(*(site.read(node, digest) for _ in range(4)))
    assert found == [DATA] * 4
    parts += await site.off(lambda: [each.data for each in slow])
    assert b"".join(parts) == DATA
    assert len(there.calls("Read")) == 1


async def test_u27_very_many_misses_are_bounded_at_the_upstream_and_here(site: Site) -> None:
    there = await site.fake()
    running = most = 0
    gate = asyncio.Event()

    async def slow(request: bytes, context: Context) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await gate.wait()
            return await there._BatchReadBlobs(request, context)
        finally:
            running -= 1

    there.does["BatchReadBlobs"] = slow
    node = site.node(
        upstream(
            "there",
            there.address,
            **{"connection-config": {"concurrency": 8, "request-timeout": "60s"}},
        ),
        pull={"blobs-at-once": 16},
    )
    local = noise(200_000, seed=8)
    await site.off(site.client(node, PUSHER).write, local)
    large = [digest_of(b"%d" % number)._replace(size_bytes=MIB) for number in range(100)]
    wanted = [*large, *(digest_of(b"%d" % number) for number in range(1500))]
    channel = grpc.aio.insecure_channel(node.address)
    stub = bs_grpc.ByteStreamStub(channel)

    at_once = asyncio.Semaphore(400)  # a listener refuses more than that on one connection

    unexpected = []

    async def ask(digest: Digest) -> None:
        async with at_once:
            call = stub.Read(request_for(digest), timeout=60)
            code: grpc.StatusCode = await call.code()
            if code not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED):
                unexpected.append((code, await call.details()))

    asking = [asyncio.ensure_future(ask(digest)) for digest in wanted]
    await site.until(lambda: running == 8, "the upstream to be busy")
    quick = site.client(node)
    for _ in range(5):
        assert await site.off(outcome, lambda: quick.read(digest_of(local))) is grpc.StatusCode.OK
    gate.set()
    await asyncio.gather(*asking)
    assert not unexpected, unexpected[:5]
    assert most == 8
    assert node.rss_bytes() < 400 * MIB
    await channel.close(None)
