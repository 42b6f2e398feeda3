"""Random histories of uploads: what is acknowledged is stored, and nothing is left behind.

Clients share names, break off, go on elsewhere, repeat, mistake offsets, and leave; the disk fills
up. The order of steps on the event loop differs in each run, what happens does not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.config.model import LimitsConfig
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.services.bytestream import ByteStreamService
from federation.services.cpu_pool import Compute
from federation.wire import zstd
from federation.wire.resource_name import upload_name
from tests.services.conftest import Serve, Served
from tests.storage.conftest import opened, short
from tests.storage.trouble import fills_up, received_files
from tests.support.seeds import by_seed, told
from tests.upstream.fakes import until

pytestmark = pytest.mark.slow

KIB = 1024
_ENDS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,  # what grpc.aio makes of a refusal that meets a message under way
}


class History:
    """Some blobs, and clients that upload them under a few names."""

    def __init__(self, rng: random.Random, served: Served) -> None:
        self.rng = rng
        self.served = served
        sizes = [rng.choice([1, 3 * KIB, 200 * KIB, 2500 * KIB]) for _ in "12"]
        self.blobs = {digest_of(data): data for data in map(rng.randbytes, sizes)}
        self.acknowledged: set[bytes] = set()

    async def pause(self) -> None:
        if self.rng.random() < 0.3:
            await asyncio.sleep(self.rng.random() * 0.01)

    async def run(self) -> None:
        clients = [asyncio.ensure_future(self.client()) for _ in range(self.rng.randrange(1, 8))]
        for each in clients:
            await self.pause()
            if self.rng.random() < 0.2:
                each.cancel()
        for outcome in await asyncio.gather(*clients, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError | None):
                raise outcome

    async def client(self) -> None:
        for _ in range(self.rng.choice([1, 2, 4])):
            await self.pause()
            digest, data = self.rng.choice(list(self.blobs.items()))
            packed = self.rng.random() < 0.3
            name = upload_name(digest, self.rng.choice("uv"), compressed=packed)
            start = 0
            if self.rng.random() < 0.5:
                query = bs.QueryWriteStatusRequest(resource_name=name)
                start = (await self.served.bytestream.QueryWriteStatus(query)).committed_size
            sent = zstd.encode(data) if packed else data
            call = self.served.bytestream.Write(self._messages(name, sent, start), timeout=20)
            code = await call.code()
            assert code in _ENDS
            if code is grpc.StatusCode.OK:
                self.acknowledged.add(digest.hash)

    async def _messages(self, name: str, data: bytes, at: int) -> AsyncIterator[bs.WriteRequest]:
        rng = self.rng
        ends_at = rng.choice([len(data)] * 3 + [rng.randrange(len(data) + 1)])
        step = rng.choice([1, 30, 1000]) * KIB
        while True:
            piece = data[at : min(at + step, ends_at)]
            if piece and rng.random() < 0.02:
                piece = bytes([piece[0] ^ 1]) + piece[1:]
            last = at + len(piece) >= ends_at
            offset = at + (1 if rng.random() < 0.01 else 0)
            yield bs.WriteRequest(
                resource_name=name,
                write_offset=offset,
                data=piece,
                finish_write=last and rng.random() < 0.9,
            )
            at += len(piece)
            if last:
                return
            await self.pause()


@by_seed(12, 1000)
async def test_histories(tmp_path: Path, serve: Serve, compute: Compute, seeds: range) -> None:
    acknowledged = 0
    for seed in told(seeds):
        rng = random.Random(seed)
        acknowledged += await tell_history(tmp_path / str(seed), serve, compute, rng)
    assert acknowledged >= len(seeds) // 4


async def tell_history(path: Path, serve: Serve, compute: Compute, rng: random.Random) -> int:
    """Return how many blobs were acknowledged."""
    limits = LimitsConfig(upload_idle=rng.choice([0.001, 0.05]), uploads=rng.choice([1, 3, 100]))
    metrics, budget = Metrics(), MemoryBudget(rng.choice([0, 300 * KIB, 2**30]))
    async with asyncio.timeout(60), opened(path, short(lease=60.0)) as storage:
        fills_up(storage, rng)
        service = ByteStreamService(storage, limits, SystemClock(), metrics, budget, compute)
        served = await serve(service, limits=limits, metrics=metrics, budget=budget)
        history = History(rng, served)
        await history.run()
        await until(lambda: not service.uploads._by_name and not service.uploads._ending)
        await until(lambda: not received_files(storage))
        await until(lambda: storage.core.space.reserved_bytes == 0)
        await until(lambda: budget.used_bytes == 0)
        held = set(history.blobs) - await storage.find_missing(list(history.blobs))
        assert {digest.hash for digest in held} >= history.acknowledged
        for digest in held:
            async with storage.open_read(digest) as chunks:
                assert b"".join([chunk async for chunk in chunks]) == history.blobs[digest]
        await served.channel.close(None)
        await served.server.stop(0)
    return len(history.acknowledged)
