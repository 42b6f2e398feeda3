"""Clients that hold on and do nothing: L01, L03, L04. Bounded memory, and an end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation._proto.google.bytestream import bytestream_pb2_grpc as bs_grpc
from federation.core.digest import Digest, digest_of
from tests.faults.storage.clean import assert_clean
from tests.support.polling import wait_until
from tests.support.process import Node, serve
from tests.support.process_client import Client

_MIB = 2**20
_THREADS_MAX = 40  # some for the disk, for hashing and for grpc; none for a client
_IDLE_S = 8.0  # within which a thousand of them must have begun, on a busy machine as well
_LIMITS = {
    "stall": f"{_IDLE_S}s",
    "upload-idle": f"{_IDLE_S}s",
    "streams": 1200,
    "streams-per-caller": 1200,
}


@pytest.fixture
def hasty(data_dir: Path) -> Iterator[Node]:
    """A node that waits for silent clients a few seconds only."""
    with serve(data_dir, {"limits": _LIMITS}) as node:
        with Client(node.address) as client:  # what only the first calls cost is not the load's
            client.write(os.urandom(8 * _MIB))
            client.batch_update([os.urandom(100)])
        yield node


class Crowd:
    """Many calls over a few connections. What still runs at the end is cancelled and awaited."""

    def __init__(self, address: str, connections: int) -> None:
        # Without the probe a window stays at 64 KiB, and a connection whose streams nobody reads
        # is full at once: the nearest that this client comes to a window that never opens.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        self._channels = [
            grpc.aio.insecure_channel(address, options=options) for _ in range(connections)
        ]
        self._stubs = [bs_grpc.ByteStreamStub(channel) for channel in self._channels]
        self.calls: list[Any] = []

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*(call.code() for call in self.calls))
        for channel in self._channels:
            await channel.close(None)

    def write(self, number: int) -> list[Any]:
        """Open so many uploads."""
        return self._add(number, lambda stub: stub.Write())

    def read(self, number: int, digest: Digest) -> list[Any]:
        """Ask so many times for a blob."""
        return self._add(number, lambda stub: stub.Read(_read_request(digest)))

    def _add(self, number: int, begin: Callable[[bs_grpc.ByteStreamStub], Any]) -> list[Any]:
        begun = [begin(self._stubs[n % len(self._stubs)]) for n in range(number)]
        self.calls += begun
        return begun


async def _until(condition: Any, what: str, timeout_s: float = 60) -> None:
    await asyncio.to_thread(wait_until, condition, what, timeout_s=timeout_s, every_s=0.1)


def _running(node: Node) -> float:
    return node.metrics().value("federation_requests_running")


def _upload_of(number: int) -> bs.WriteRequest:
    digest = Digest(digest_of(b"%d" % number).hash, 10_000_000)
    name = f"uploads/{number}/blobs/{digest.hash_hex}/{digest.size_bytes}"
    return bs.WriteRequest(resource_name=name, data=b"x" * 1000)


@pytest.mark.parametrize("begun", [False, True], ids=["no message", "one message"])
async def test_l01_a_thousand_uploads_that_say_nothing_cost_little_and_are_dropped(
    begun: bool, hasty: Node
) -> None:
    rss, fds = hasty.rss_bytes(), hasty.fds()
    async with Crowd(hasty.address, 4) as crowd:
        calls = crowd.write(1000)
        if begun:
            await asyncio.gather(*(c.write(_upload_of(n)) for n, c in enumerate(calls)))
        await _until(lambda: _running(hasty) > 900, "the uploads to be open")
        grown = hasty.rss_bytes() - rss
        assert grown < 100 * _MIB, f"{grown / _MIB:.0f} MiB for 1,000 silent uploads"
        assert hasty.threads() <= _THREADS_MAX
        await _assert_others_unaffected(hasty)
        codes = await asyncio.gather(*(call.code() for call in calls))
        assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}, set(codes)
    await _until(lambda: _running(hasty) == 0, "the streams to end")
    await _until(lambda: hasty.metrics().value("federation_uploads_open") == 0, "uploads dropped")
    # Threads open their catalogue connections when first used; beyond those nothing may stay.
    await _until(lambda: hasty.fds() <= fds + 40, f"file handles back to {fds}: {hasty.fds()}")
    await asyncio.to_thread(assert_clean, hasty.data_dir)


async def _assert_others_unaffected(node: Node) -> None:
    def use() -> None:
        with Client(node.address) as client:
            data = os.urandom(200_000)
            client.write(data)
            assert client.read(digest_of(data)) == data

    await asyncio.to_thread(use)


async def test_l03_readers_that_never_read_are_ended_and_cost_little(hasty: Node) -> None:
    digest = await asyncio.to_thread(_store_large, hasty, 64)
    rss = hasty.rss_bytes()
    async with Crowd(hasty.address, 20) as crowd:
        crowd.read(500, digest)
        peak = 0
        most = 0.0
        for _ in range(int(_IDLE_S / 0.25)):
            await asyncio.sleep(0.25)
            peak = max(peak, hasty.rss_bytes())
            most = max(most, await asyncio.to_thread(_running, hasty))
        assert most > 400, f"only {most} readers were served at once"
        grown = peak - rss
        assert grown < 64 * _MIB, f"{grown / _MIB:.0f} MiB for 500 readers that never read"
        await _assert_others_unaffected(hasty)
        await _until(lambda: _running(hasty) == 0, "the stall timer to end them")


@pytest.mark.parametrize(
    ("readers", "size_mib"), [(32, 128), pytest.param(64, 1024, marks=pytest.mark.heavy)]
)
async def test_l04_slow_readers_hold_at_most_two_chunks_each(
    readers: int, size_mib: int, node: Node
) -> None:
    digest = await asyncio.to_thread(_store_large, node, size_mib)
    rss, peak = node.rss_bytes(), 0
    async with Crowd(node.address, 4) as crowd:
        calls = crowd.read(readers, digest)

        async def read_slowly(call: Any) -> int:
            got = 0
            while got < 6 * _MIB:
                message = await call.read()
                got += len(message.data)
                await asyncio.sleep(len(message.data) / _MIB)
            return got

        slow = asyncio.gather(*map(read_slowly, calls))
        while not slow.done():
            await asyncio.sleep(0.25)
            peak = max(peak, node.rss_bytes())
        assert min(await slow) >= 6 * _MIB
        await _assert_others_unaffected(node)
    grown = peak - rss
    assert grown < readers * 4 * _MIB + 32 * _MIB, f"{grown / _MIB:.0f} MiB for {readers} readers"
    await _until(lambda: _running(node) == 0, "cancelled readers to be gone")


def _store_large(node: Node, size_mib: int) -> Digest:
    data = os.urandom(_MIB) * size_mib
    with Client(node.address, timeout_s=100) as client:
        client.write(data)
    return digest_of(data)


def _read_request(digest: Digest) -> bs.ReadRequest:
    return bs.ReadRequest(resource_name=f"blobs/{digest.hash_hex}/{digest.size_bytes}")
