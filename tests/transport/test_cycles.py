"""A connection that is lost is freed at once, with its calls and what libnghttp2 holds for it.

In a cycle it would wait for a full garbage collection, which a node makes rarely
(federation/server/process.py): memory would grow with each connection.
"""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Iterator

import pytest

from federation.transport.connection import Http2Connection
from federation.transport.session import Http2Settings
from tests.transport.test_fuzz import Socket, call
from tests.transport.test_server import Site
from tests.transport.wire import PREFACE, SETTINGS, frame

BEGIN = PREFACE + frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, 1, 0, b"")
CALLS = {
    "none": [],
    "answered": call(1, "Echo", b"x"),
    "running": call(1, "Wait", b"x"),
    "half open": call(1, "Echo", b"x", end=False),
    "in a message": [call(1, "Echo", b"x" * 1000)[0], *call(3, "Wait", b"x", end=False)],
    "unknown": call(1, "None", b"x"),
}


@pytest.fixture(autouse=True)
def _no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def lose_a_connection(site: Site, frames: list[bytes]) -> weakref.ref[Http2Connection]:
    connection = Http2Connection(site.server, Http2Settings(10, 2**14), None)
    socket = Socket(connection, random.Random(1))
    connection.connection_made(socket)
    data = BEGIN + b"".join(frames)
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))
    for _ in range(5):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    del socket.connection  # of the test's own
    return weakref.ref(connection)


@pytest.mark.parametrize("calls", CALLS)
async def test_a_connection_that_is_lost_is_freed_at_once(calls: str) -> None:
    site = Site()
    lost = await lose_a_connection(site, CALLS[calls])
    async with asyncio.timeout(60):
        while lost() is not None:  # noqa: ASYNC110 - its tasks are cancelled
            await asyncio.sleep(0.001)
