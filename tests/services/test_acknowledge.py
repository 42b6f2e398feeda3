"""A write on a listener that asks for it is answered when peers have it, or when time is up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import pytest
import structlog

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.access.rights import Rights, Role
from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.core.errors import SourceUnavailable
from federation.observability.metrics import Metrics
from federation.remote.failures import RequestRefused
from federation.services.acknowledge import Acknowledge, How
from tests.remote.blobs import chunks, noise, read, until
from tests.remote.served import Here, connected, serving
from tests.support.memory_ledger import MemoryStorage
from tests.support.messages import message_of
from tests.support.samples import sample_value

PEERS = ("b", "c")


class Known:
    """How far which peer is, as the test says."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage
        self.far: dict[str, int] = {}
        self.asked: list[tuple[int, float]] = []
        self.moved = asyncio.Event()
        self.broken = False

    def head(self) -> int:
        return self.storage.head

    async def wait_acknowledged(
        self, seq: int, peers: Collection[str], needed: int, timeout_s: float
    ) -> bool:
        self.asked.append((seq, timeout_s))
        if self.broken:
            raise SourceUnavailable("catalogue", "the disk is gone")
        try:
            async with asyncio.timeout(timeout_s):
                while sum(self.far.get(peer, 0) >= seq for peer in peers) < needed:
                    self.moved.clear()
                    await self.moved.wait()
        except TimeoutError:
            return False
        return True

    def reaches(self, peer: str, seq: int) -> None:
        self.far[peer] = seq
        self.moved.set()


class Site:
    def __init__(self, storage: MemoryStorage, known: Known, metrics: Metrics, here: Here) -> None:
        self.storage, self.known, self.metrics, self.here = storage, known, metrics, here

    def counted(self, name: str, how: str) -> float:
        sample = f"federation_acknowledge_{name}"
        return sample_value(self.metrics, sample, {"acknowledge": how})


@asynccontextmanager
async def site(how: How, within_s: float = 60.0, role: Role = Role.PUSH) -> AsyncIterator[Site]:
    storage, metrics = MemoryStorage("there"), Metrics()
    known = Known(storage)
    wait = Acknowledge(known, how, lambda: PEERS, within_s, metrics, ManualClock())
    async with (
        serving(storage, storage, acknowledge=wait, rights=Rights("a caller", role)) as address,
        connected(address) as here,
    ):
        yield Site(storage, known, metrics, here)


DATA = noise(1000)
NAMED = message_of(digest_of(DATA))
WRITES: dict[str, Callable[[Here], Awaitable[object]]] = {
    "BatchUpdateBlobs": lambda here: here.store.write_small([(digest_of(DATA), DATA)]),
    "Write": lambda here: here.store.write(digest_of(DATA), chunks(DATA)),
    "UpdateActionResult": lambda here: here.index.update_action_result(
        digest_of(b"x"), reapi.ActionResult(exit_code=1).SerializeToString()
    ),
    "PushBlob": lambda here: here.index.push_blob(
        asset.PushBlobRequest(uris=["a"], blob_digest=NAMED)
    ),
    "PushDirectory": lambda here: here.index.push_directory(
        asset.PushDirectoryRequest(uris=["a"], root_directory_digest=NAMED)
    ),
}


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize(("how", "first"), [("one-peer", True), ("all-peers", False)])
async def test_each_write_waits_for_as_many_peers_as_asked(
    method: str, how: How, first: bool
) -> None:
    async with site(how) as there:
        writing = asyncio.ensure_future(WRITES[method](there.here))
        await until(lambda: bool(there.known.asked), "it waits")
        assert there.storage.head == 1  # durable before anybody is waited for
        assert not (await asyncio.wait([writing], timeout=0.05))[0]
        there.known.reaches("c", 1)
        done, _ = await asyncio.wait([writing], timeout=60 if first else 0.05)
        assert bool(done) is first
        there.known.reaches("b", 1)
        await writing
        assert there.counted("timeouts_total", how) == 0
        assert there.counted("seconds_count", how) == 1


async def test_when_time_is_up_the_client_gets_its_ok_and_it_is_counted() -> None:
    async with site("all-peers", within_s=0.01) as there:
        with structlog.testing.capture_logs() as logs:
            assert await WRITES["BatchUpdateBlobs"](there.here) == [None]
        assert await read(there.here.store, digest_of(DATA)) == DATA
        assert there.counted("timeouts_total", "all-peers") == 1
        assert [each["event"] for each in logs if "acknowledged" in each["event"]]


async def test_what_cannot_be_found_out_counts_as_not_acknowledged() -> None:
    async with site("one-peer") as there:
        there.known.broken = True
        assert await WRITES["BatchUpdateBlobs"](there.here) == [None]
        assert there.counted("timeouts_total", "one-peer") == 1


async def test_what_a_peer_writes_does_not_wait() -> None:
    async with site("all-peers", role=Role.PEER) as there:
        for write in WRITES.values():
            await write(there.here)
        assert there.storage.head
        assert not there.known.asked


async def test_reads_and_refused_writes_do_not_wait() -> None:
    async with site("all-peers") as there:
        await there.here.store.find_missing([digest_of(DATA)])
        with pytest.raises(RequestRefused):
            await there.here.index.push_blob(asset.PushBlobRequest())
        assert not there.known.asked
