"""What the ByteStream tests share: a client's side of Read and Write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import grpc

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation._proto.google.bytestream import bytestream_pb2_grpc
from federation.core.digest import Digest
from federation.core.memory_budget import MemoryBudget
from federation.services.bytestream import ByteStreamService
from federation.wire.resource_name import read_name

if TYPE_CHECKING:
    from tests.services.conftest import Served


class Client:
    """One client of a served ByteStream."""

    def __init__(self, served: Served, service: ByteStreamService, budget: MemoryBudget) -> None:
        self.served = served
        self.service = service
        self.budget = budget
        self._channel = grpc.insecure_channel(f"127.0.0.1:{served.port}")
        self._threads = ThreadPoolExecutor(64)
        self._in_threads = bytestream_pb2_grpc.ByteStreamStub(self._channel)

    async def read(
        self, digest: Digest, *, offset: int = 0, limit: int = 0, compressed: bool = False
    ) -> bytes:
        return await self.read_named(
            read_name(digest, compressed=compressed), offset=offset, limit=limit
        )

    async def read_named(self, name: str, *, offset: int = 0, limit: int = 0) -> bytes:
        request = bs.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        return b"".join([part.data async for part in self.served.bytestream.Read(request)])

    async def write(self, *messages: bs.WriteRequest) -> int:
        """Send the messages and half-close; return committed_size."""
        return await self.write_from(iter(messages))

    async def write_from(self, messages: Iterator[bs.WriteRequest]) -> int:
        """Send the messages and half-close; return committed_size.

        Through the client in threads: that of asyncio now and then tells INTERNAL where the node
        ended the call while a message was under way, whatever status the node gave.
        """
        write = partial(self._in_threads.Write, messages, timeout=60)
        response = await asyncio.get_running_loop().run_in_executor(self._threads, write)
        return int(response.committed_size)

    def close(self) -> None:
        self._channel.close()
        self._threads.shutdown()

    def open_write(self) -> grpc.aio.StreamUnaryCall[bs.WriteRequest, bs.WriteResponse]:
        call: grpc.aio.StreamUnaryCall[bs.WriteRequest, bs.WriteResponse]
        call = self.served.bytestream.Write()
        return call

    async def query(self, name: str) -> tuple[int, bool]:
        request = bs.QueryWriteStatusRequest(resource_name=name)
        answer = await self.served.bytestream.QueryWriteStatus(request)
        return answer.committed_size, answer.complete


def messages(name: str, data: bytes, *, step: int = 0, start: int = 0) -> list[bs.WriteRequest]:
    """Cut data[start:] into messages, the name in the first one only, finish_write in the last."""
    step = step or max(1, len(data))
    cuts = [
        bs.WriteRequest(write_offset=at, data=data[at : at + step])
        for at in range(start, len(data), step)
    ] or [bs.WriteRequest(write_offset=start)]
    cuts[0].resource_name = name
    cuts[-1].finish_write = True
    return cuts


async def eventually(holds: Callable[[], bool], within_s: float = 60) -> None:
    """Wait until something that happens in the background has happened."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - nothing to be notified by
            await asyncio.sleep(0.005)
