"""What a test about upstreams is played on: nodes in processes of their own, and what they pull
from: servers that misbehave by script in this process, or other nodes.

Tests are coroutines, since the scripted servers run in their event loop; what blocks (the clients
of tests.support.process_client) runs in threads through off().
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from federation.core.digest import Digest
from tests.faults.storage.clean import assert_clean
from tests.remote.fake_server import FakeServer, Proxy, RawServer
from tests.support.process import Node, Settings, merged
from tests.support.process_client import Client

_T = TypeVar("_T")
READER, PUSHER = 0, 1  # the two listeners of a node
_BAD_SIGNS = ("Traceback", "background_task_failed", "call_failed")


def upstream(name: str, address: str, **over: Any) -> dict[str, Any]:
    """Settings of an upstream with waits that a test can sit out."""
    base: Settings = {
        "name": name,
        "url": address if "://" in address else f"grpc://{address}",
        "hedge-delay": "1s",
        "connection-config": {
            "stall": "1s",
            "request-timeout": "3s",
            "retry-limit": 1,
            "retry-delay": 20,
        },
    }
    return merged(base, over)


class Site:
    """Everything on it ends with the test; each node must then have left a clean folder."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._threads = ThreadPoolExecutor(64)
        self.nodes: list[Node] = []

    async def off(self, work: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Run what blocks in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *args, **kwargs))

    async def fake(self, *args: Any, **kwargs: Any) -> FakeServer:
        return await self._stack.enter_async_context(FakeServer(*args, **kwargs))

    async def fakes(self, count: int) -> list[FakeServer]:
        return [await self.fake() for _ in range(count)]

    async def proxy(self, target: str) -> Proxy:
        return await self._stack.enter_async_context(Proxy(target))

    async def silent(self) -> RawServer:
        return await self._stack.enter_async_context(RawServer())

    def node(
        self,
        *upstreams: Settings,
        name: str = "node",
        prefix: Sequence[str] = (),
        **settings: Any,
    ) -> Node:
        """Start a node that pulls from these; keywords are further keys of its configuration."""
        base: Settings = {
            "listeners": [
                {"address": "127.0.0.1:0"},
                {"address": "127.0.0.1:0", "push": True},
            ],
            "upstreams": list(upstreams),
            "storage": {"scrub": {"rate": 0}},
        }
        keys = {key.replace("_", "-"): value for key, value in settings.items()}
        node = Node(self.folder / name, merged(base, keys), name=name, prefix=prefix)
        self.nodes.append(node)
        return node.start()

    def client(self, node: Node, listener: int = READER, timeout_s: float = 30) -> Client:
        client = Client(node.addresses[listener], timeout_s=timeout_s)
        return self._stack.enter_context(client)

    async def read(self, node: Node, digest: Digest, **options: int) -> bytes:
        """Read by ByteStream."""
        return await self.off(self.client(node).read, digest, **options)

    async def until(self, condition: Callable[[], object], what: str, within_s: float = 60) -> None:
        """Poll a condition that may block; fail with what at the deadline."""
        try:
            async with asyncio.timeout(within_s):
                while not await self.off(condition):  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(0.02)
        except TimeoutError:
            logs = "".join(node.log_tail for node in self.nodes)
            raise AssertionError(f"not within {within_s} s: {what}\n{logs}") from None

    async def end(self) -> None:
        """Check what each node leaves behind, and end it; what was started since, the next time."""
        nodes, self.nodes = self.nodes, []
        try:
            for node in nodes:
                signs = [
                    line for line in node.log.splitlines() if any(b in line for b in _BAD_SIGNS)
                ]
                assert not signs, node.log_tail
                if node.running:
                    await self.off(assert_clean, node.data_dir)
        finally:
            for node in nodes:
                await self.off(node.close)

    def close(self) -> None:
        self._threads.shutdown()


@asynccontextmanager
async def site_in(folder: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(folder, stack)
        try:
            yield site
        finally:
            await site.end()
            site.close()


def status(node: Node) -> dict[str, Any]:
    """What the node says of itself."""
    code, text = node.http_get("/")
    assert code == 200, text
    facts: dict[str, Any] = json.loads(text)
    return facts


def state(node: Node, name: str) -> dict[str, Any]:
    """What the node says of one upstream."""
    return next(each for each in status(node)["upstreams"] if each["name"] == name)


def received(node: Node, method: str) -> int:
    """How many calls of a method a node has answered, in whatever way."""
    full = {"Read": "google.bytestream.ByteStream/Read"}.get(method, method)
    return int(node.metrics().value("federation_requests_total", method=full))
