"""The node's own transport and pipeline with empty handlers: see benchmarks.bare_server.

`python -m benchmarks.bare_http2 HOST:PORT`. No storage, no thread, no decoding; rights, limits and
counting are those of every call.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping

from benchmarks.payloads import floor_answer
from federation.access.access import SameForAll
from federation.access.rights import everybody
from federation.config.model import LimitsConfig
from federation.config.types import parse_address
from federation.core.clock import SystemClock
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.server import process
from federation.server.addresses import listen
from federation.services.call import Call
from federation.services.method import SMALL_ANSWER, ClientStream, Method, ServerStream, Unary
from federation.services.open_connections import OpenConnections
from federation.services.request_stream import RequestStream
from federation.services.runtime import Runtime
from federation.transport.connection import Http2Connection
from federation.transport.server import Http2Server, routes

_STALL_S = 60.0


class _Floor:
    """Unary, Stream and Sink of benchmarks.rows.floor."""

    name = "floor"

    def methods(self) -> Mapping[str, Method]:
        return {
            "Unary": Unary(self._unary, at_once=self._at_once),
            "Stream": ServerStream(self._stream),
            "Sink": ClientStream(self._sink),
        }

    def _at_once(self, request: bytes, _call: Call) -> bytes | None:
        answer = floor_answer(request)[1]
        return answer if len(answer) <= SMALL_ANSWER else None

    async def _unary(self, request: bytes, _call: Call) -> bytes:
        return floor_answer(request)[1]

    async def _stream(self, request: bytes, _call: Call) -> AsyncGenerator[bytes, None]:
        count, message = floor_answer(request)
        for _ in range(count):
            yield message

    async def _sink(self, requests: RequestStream, _call: Call) -> bytes:
        came_bytes = 0
        while (message := await requests.next(_STALL_S)) is not None:
            came_bytes += len(message)
        return b"%d" % came_bytes


class _Capabilities:
    """Whoever starts the server asks for these until they are answered."""

    name = "build.bazel.remote.execution.v2.Capabilities"

    def methods(self) -> Mapping[str, Method]:
        return {"GetCapabilities": Unary(self._get)}

    async def _get(self, _request: bytes, _call: Call) -> bytes:
        return b""


async def _serve(address: str) -> None:
    limits, clock, metrics = LimitsConfig(), SystemClock(), Metrics()
    budget = MemoryBudget(limits.buffer_memory)
    connections: OpenConnections[Http2Connection] = OpenConnections()
    access = SameForAll(everybody(push=True))
    runtime = Runtime(metrics, limits, clock, access, budget, connections)
    server = Http2Server(
        routes([_Floor(), _Capabilities()], runtime),
        limits,
        clock,
        runtime.hits,
        budget,
        connections,
    )
    await server.start([listen(parse_address(address))])
    process.settle()
    await asyncio.Event().wait()


if __name__ == "__main__":
    process.prepare()
    asyncio.run(_serve(sys.argv[1]))
