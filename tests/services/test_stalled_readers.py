"""Readers that never open their HTTP/2 window, which no gRPC client library can be made to be."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.config.model import LimitsConfig
from federation.core.digest import digest_of
from federation.wire.chunk_sizer import SMALL_BYTES
from federation.wire.resource_name import read_name
from tests.services.bytestream import eventually
from tests.services.conftest import Connect
from tests.support.fakes import MemoryStore

pytestmark = pytest.mark.slow

READERS = 100
RUNNING = "federation_requests_running"


async def read_without_a_window(port: int, request: bytes, readers: int) -> asyncio.StreamWriter:
    """Start so many Reads on one connection whose streams may send no byte of data."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    for number in range(readers):
        stream = 2 * number + 1
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/google.bytestream.ByteStream/Read"),
            (":authority", "node"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        connection.send_headers(stream, headers)
        framed = b"\0" + len(request).to_bytes(4, "big") + request
        connection.send_data(stream, framed, end_stream=True)
    writer.write(connection.data_to_send())
    await writer.drain()
    return writer


async def test_l03_readers_with_a_closed_window_are_ended_and_hold_little(
    connect: Connect, store: MemoryStore
) -> None:
    blob = bytes(8 * 2**20)
    store.add(digest_of(blob), blob)
    client = await connect(limits=LimitsConfig(stall=3))
    request = bs.ReadRequest(resource_name=read_name(digest_of(blob))).SerializeToString()
    writer = await read_without_a_window(client.served.port, request, READERS)
    await eventually(lambda: client.served.counted(RUNNING) == READERS)
    # None of them got beyond the small first chunk, so the budget is as good as untouched.
    assert client.budget.used_bytes <= READERS * 2 * 2 * SMALL_BYTES
    await eventually(lambda: client.served.counted(RUNNING) == 0)
    assert client.budget.used_bytes == 0
    ended = client.served.counted(
        "federation_requests_total",
        method="google.bytestream.ByteStream/Read",
        code=grpc.StatusCode.DEADLINE_EXCEEDED.name,
    )
    assert ended == READERS
    assert await client.read(digest_of(blob)) == blob
    writer.close()
