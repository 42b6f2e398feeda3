"""Our side in the test's process: a storage that replicates to whatever peers a test names."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.config.model import LimitsConfig
from federation.config.model import StorageConfig as Settings
from federation.config.peers import PeerConfig
from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.index import Entry
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.replication_log import ReplicationLog
from federation.observability.metrics import Metrics
from federation.remote.client import Remote
from federation.replication.remote_peer import RemotePeer
from federation.replication.setup import Replication
from federation.storage.storage import Storage
from federation.wire.action_result import key_of
from federation.wire.asset_request import entries_of
from tests.remote.fake_server import FakeServer
from tests.remote.served import settings_for
from tests.support.memory_ledger import MemoryLedger, MemoryStorage
from tests.support.process_client import action_result, message
from tests.support.samples import sample_value

LIMITS = LimitsConfig()


def result_of(action: Digest, *outputs: Digest, instance: str = "") -> Entry:
    """An action result that names these blobs."""
    result = action_result([(f"out{at}", digest) for at, digest in enumerate(outputs)])
    return Entry(key_of(instance, action), result.SerializeToString(), str(action))


def asset_of(uri: str, digest: Digest, *references: Digest, instance: str = "") -> Entry:
    """An asset that names this blob."""
    (entry,) = entries_of(
        asset.PushBlobRequest(
            instance_name=instance,
            uris=[uri],
            blob_digest=message(digest),
            references_blobs=[message(each) for each in references],
        )
    )
    return entry


@dataclass
class Here:
    """A storage that replicates."""

    storage: Storage | MemoryStorage
    ledger: ReplicationLog
    replication: Replication
    metrics: Metrics

    async def push(self, *blobs: bytes, provenance: Provenance = FROM_CLIENT) -> list[Digest]:
        """Take blobs as from a client, a batch of up to 1000 at a time."""
        named = [(digest_of(data), data) for data in blobs]
        for at in range(0, len(named), 1000):
            part = named[at : at + 1000]
            refused = await self.storage.write_small(part, provenance=provenance)
            assert refused == [None] * len(part)
        return [digest for digest, _ in named]

    async def write(self, data: bytes) -> Digest:
        """Take a blob of any size."""

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        digest = digest_of(data)
        await self.storage.write(digest, chunks())
        return digest

    async def put(self, *entries: Entry, provenance: Provenance = FROM_CLIENT) -> None:
        await self.storage.put(entries, provenance=provenance)

    def facts(self, name: str = "there") -> dict[str, Any]:
        """What status shows of a peer; empty while it is not sent to."""
        shown = self.replication.describe()["peers"]
        return next((each for each in shown if each["name"] == name), {})

    async def until(self, condition: Callable[[], Any], timeout_s: float = 60) -> None:
        """Wait until something is so; fail with what status shows."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 - another process is waited for
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(
                f"not within {timeout_s} s: {self.replication.describe()}"
            ) from None

    async def caught_up(self, name: str = "there", timeout_s: float = 60) -> dict[str, Any]:
        """Wait until a peer has all that the log tells of."""

        def is_there() -> bool:
            facts = self.facts(name)
            return facts.get("state") == "following" and facts["lag-objects"] == 0

        await self.until(is_there, timeout_s)
        return self.facts(name)

    def sent_bytes(self, remote: str = "there") -> float:
        """Message bytes to a peer, those of a stream under way included."""
        labels = {"remote": remote, "direction": "out"}
        return sample_value(self.metrics, "federation_remote_bytes_total", labels)

    def calls(self, method: str, outcome: str = "ok", remote: str = "there") -> float:
        labels = {"remote": remote, "method": method, "outcome": outcome}
        return sample_value(self.metrics, "federation_remote_calls_total", labels)


def peer(address: str, name: str = "there", **keys: Any) -> PeerConfig:
    """A peer's section of the configuration, with delays as a test can bear them."""
    connection = {"retry-delay": 20, "request-timeout": "5s", "stall": "2s"}
    connection |= keys.pop("connection_config", {})
    return PeerConfig.model_validate(
        {"name": name, "url": f"http://{address}", "connection-config": connection, **keys}
    )


@asynccontextmanager
async def remote_peer(fake: FakeServer, names: dict[str, str] | None) -> AsyncIterator[RemotePeer]:
    """Our client of a fake peer. names: of instances here, and what they are called there."""
    rng = random.Random(1)
    made = [
        Remote(settings_for(fake.address), Metrics(), SystemClock(), rng, node_id="we")
        for _ in range(2)
    ]
    target = RemotePeer(made[0], made[1], names)
    try:
        yield target
    finally:
        await target.close()


@asynccontextmanager
async def replicating(
    path: Path, *peers: PeerConfig, settings: Settings | None = None
) -> AsyncIterator[Here]:
    """Open a storage and send to these peers."""
    metrics, clock = Metrics(), SystemClock()
    storage = await Storage.open(path, settings or Settings(), LIMITS, metrics, clock)
    try:
        async with _started(storage, storage.ledger, metrics, clock, peers) as here:
            yield here
    finally:
        await storage.close()


@asynccontextmanager
async def remembering(
    *peers: PeerConfig,
    storage: MemoryStorage | None = None,
    ledger_type: type[MemoryLedger] = MemoryLedger,
) -> AsyncIterator[Here]:
    """Send from a storage in memory."""
    metrics, clock = Metrics(), SystemClock()
    storage = storage or MemoryStorage(clock=clock)
    ledger = ledger_type(storage)
    async with _started(storage, ledger, metrics, clock, peers) as here:
        yield here
    ledger.close()


@asynccontextmanager
async def _started(
    storage: Storage | MemoryStorage,
    ledger: ReplicationLog,
    metrics: Metrics,
    clock: SystemClock,
    peers: Sequence[PeerConfig],
) -> AsyncIterator[Here]:
    replication = Replication(peers, storage, ledger, LIMITS, metrics, clock)
    replication.start()
    try:
        yield Here(storage, ledger, replication, metrics)
    finally:
        await replication.close()
