"""A grpc.aio server whose handlers do nothing: `python -m benchmarks.bare_server HOST:PORT`."""

from __future__ import annotations

import asyncio
import sys

import grpc

from benchmarks.payloads import floor_answer
from federation.server import process

_EOF: object = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs do not know it


async def _unary(request: bytes, _context: object) -> bytes:
    return floor_answer(request)[1]


async def _stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    count, message = floor_answer(request)
    for _ in range(count):
        await context.write(message)


async def _sink(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    came_bytes = 0
    while (message := await context.read()) is not _EOF:
        came_bytes += len(message)
    return b"%d" % came_bytes


async def _capabilities(_request: bytes, _context: object) -> bytes:
    return b""  # whoever starts the server asks this until it is answered


async def _serve(address: str) -> None:
    server = grpc.aio.server(
        options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    )
    floor = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Stream": grpc.unary_stream_rpc_method_handler(_stream),
        "Sink": grpc.stream_unary_rpc_method_handler(_sink),
    }
    capabilities = {"GetCapabilities": grpc.unary_unary_rpc_method_handler(_capabilities)}
    service = "build.bazel.remote.execution.v2.Capabilities"
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("floor", floor),
            grpc.method_handlers_generic_handler(service, capabilities),
        )
    )
    server.add_insecure_port(address)
    await server.start()
    process.settle()
    await server.wait_for_termination()


if __name__ == "__main__":
    process.prepare()
    asyncio.run(_serve(sys.argv[1]))
