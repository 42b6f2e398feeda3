"""The HTTP cache in this process, over a store in memory, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from federation.access.access import Access, SameForAll
from federation.access.rights import Rights, everybody
from federation.closure.checker import ClosureChecker
from federation.config.model import Config, LimitsConfig
from federation.config.types import Address
from federation.core.clock import Clock, ManualClock, SystemClock
from federation.core.memory_budget import MemoryBudget
from federation.http_cache.connection import HttpConnection
from federation.http_cache.routes import Routes
from federation.http_cache.server import HttpCacheServer
from federation.http_cache.service import HttpCacheService
from federation.observability.metrics import Metrics
from federation.server.addresses import listen
from federation.services.action_cache import ActionCacheService
from federation.services.bytestream import ByteStreamService
from federation.services.cpu_pool import Compute
from federation.services.open_connections import OpenConnections
from federation.services.quotas import CallerQuotas
from federation.services.runtime import Runtime
from tests.support.fakes import MemoryIndex, MemoryStore
from tests.support.local_finder import LocalFinder
from tests.support.memory_purges import MemoryPurges
from tests.support.samples import sample_value

_PATIENCE_S = 30.0


class Answer(NamedTuple):
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]  # names in small letters
    body: bytes


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.sent_bytes = 0

    def send(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        self._writer.write(data)

    async def drained(self) -> None:
        await self._writer.drain()

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request whole, and return the answer to it."""
        self.send(request(method, path, body, headers))
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> Answer:
        async with asyncio.timeout(_PATIENCE_S):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = [line.split(": ", 1) for line in lines[1:-2]]
            headers = {name.lower(): value for name, value in pairs}
            status = int(lines[0].split(" ")[1])
            size = 0 if method == "HEAD" or status < 200 else int(headers.get("content-length", 0))
            return Answer(status, headers, await self._reader.readexactly(size))

    async def rest(self) -> bytes:
        """Return what comes until the server closes the connection."""
        async with asyncio.timeout(_PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self._writer.transport.abort()


def request(
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return a request as bytes."""
    fields = {"Host": "cache", **(headers or {})}
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


@dataclass
class HttpNode:
    """A server and what is behind it."""

    store: MemoryStore
    index: MemoryIndex
    purges: MemoryPurges
    metrics: Metrics
    server: HttpCacheServer
    service: HttpCacheService
    results: ActionCacheService
    stream: ByteStreamService
    runtime: Runtime
    budget: MemoryBudget
    compute: Compute
    port: int = 0
    clients: list[RawClient] = field(default_factory=list)

    @property
    def running(self) -> int:
        """How many calls run."""
        return self.runtime.calls.count

    async def connect(self) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask on a connection of its own."""
        client = await self.connect()
        return await client.ask(method, path, body, headers)

    def counted(self, name: str, **labels: str) -> float:
        return sample_value(self.metrics, name, labels)

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        await self.server.stop(0)
        await self.stream.close()
        self.compute.close()


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; fail when it does not for long."""
    clock = SystemClock()
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():
            await clock.sleep(0.01)


async def serve_http(
    store: MemoryStore | None = None,
    *,
    limits: LimitsConfig | None = None,
    rights: Rights | None = None,
    access: Access | None = None,
    namespaces: Sequence[Mapping[str, Any]] = (),
    clock: Clock | None = None,
    quotas: bool = False,
) -> HttpNode:
    """Serve a store on a free port of 127.0.0.1."""
    store, index = store or MemoryStore(), MemoryIndex(SystemClock())
    limits, clock, metrics = limits or LimitsConfig(), clock or SystemClock(), Metrics()
    budget, compute = MemoryBudget(limits.buffer_memory), Compute(2)
    purges = MemoryPurges.of(store, index)
    finder = LocalFinder(index, ClosureChecker(store, limits, ManualClock(), store))
    stream = ByteStreamService(store, limits, clock, metrics, budget, compute)
    config = Config.model_validate({"namespaces": list(namespaces)})
    service = HttpCacheService(
        store, store, store, index, finder, stream, config, limits, clock, metrics, purges
    )
    connections = OpenConnections[HttpConnection]()
    allowed = access or SameForAll(rights or everybody(push=True))
    runtime = Runtime(
        metrics,
        limits,
        clock,
        allowed,
        budget,
        connections,
        quotas=CallerQuotas(limits, clock, metrics) if quotas else None,
    )
    server = HttpCacheServer(Routes([service], runtime), limits, clock, runtime.hits, connections)
    listening = listen(Address("127.0.0.1", 0))
    await server.start([listening])
    results = ActionCacheService(store, index, finder, metrics)
    node = HttpNode(
        store, index, purges, metrics, server, service, results, stream, runtime, budget, compute
    )
    node.port = listening.getsockname()[1]
    return node
