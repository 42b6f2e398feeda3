"""Sessions of clients whose bytes are changed at random: no error, nothing left, no growth."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import hpack
import structlog

from federation.core.clock import SystemClock
from federation.transport.connection import Http2Connection
from federation.transport.session import Http2Settings
from tests.support.seeds import by_seed
from tests.transport.test_server import Site
from tests.transport.wire import (
    DATA,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

_clock = SystemClock()
GROWTH_MIB = 64  # of this process, once a tenth of the sessions are over; other tests left some
_END_HEADERS, _END_STREAM, _HEADERS_FRAME = 4, 1, 1


class Socket(asyncio.Transport):
    """A transport without a socket; one of eight takes nothing."""

    def __init__(self, connection: Http2Connection, chance: random.Random) -> None:
        super().__init__()
        self.connection = connection
        self.closed = self.aborted = False
        self.reads = True
        self._held_bytes = 0
        self._slow = chance.random() < 1 / 8

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("10.0.0.1", 1000) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        if self._slow:
            self._held_bytes += len(data)
            self.connection.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._held_bytes

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


@cache
def block_of(method: str) -> bytes:
    """Return the headers of a call."""
    fields = [each for each in HEADERS if each[0] != b":path"]
    return hpack.Encoder().encode([(b":path", f"/test.Waits/{method}".encode()), *fields])


def call(stream: int, method: str, data: bytes, *, end: bool = True) -> list[bytes]:
    """Return the frames of a call with this data."""
    message = b"\0" + len(data).to_bytes(4, "big") + data
    return [
        frame(_HEADERS_FRAME, _END_HEADERS, stream, block_of(method)),
        frame(DATA, _END_STREAM if end else 0, stream, message),
    ]


def session(chance: random.Random) -> bytes:
    """Return what a client may send, changed in some places."""
    frames = [PREFACE, frame(SETTINGS, 0, 0, b""), frame(SETTINGS, 1, 0, b"")]
    for at in range(chance.randrange(1, 6)):
        stream = 2 * at + 1
        method = chance.choice(["Echo", "Echo", "Wait", "None"])
        frames += call(stream, method, bytes(chance.randrange(3000)), end=chance.random() < 0.8)
        if chance.random() < 0.3:
            frames.append(frame(RST_STREAM, 0, stream, bytes(4)))
        if chance.random() < 0.3:
            frames.append(frame(WINDOW_UPDATE, 0, stream, chance.randbytes(4)))
    frames += [frame(PING, 0, 0, bytes(8)), frame(PRIORITY, 0, 1, bytes(5))]
    if chance.random() < 0.5:
        at = chance.randrange(1, len(frames))
        frames.insert(at, chance.choice(frames))
    if chance.random() < 0.3:
        frames.pop(chance.randrange(1, len(frames)))
    data = bytearray(b"".join(frames))
    for _ in range(chance.choice([0, 1, 1, 2, 5, 20])):
        data[chance.randrange(len(PREFACE), len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


async def run(site: Site, chance: random.Random) -> None:
    """Give one session to a connection, piece by piece, and lose it."""
    connection = Http2Connection(site.server, Http2Settings(10, 2**14), None)
    socket = Socket(connection, chance)
    connection.connection_made(socket)
    data, at = session(chance), 0
    while at < len(data) and not socket.closed:
        piece = data[at : at + chance.choice([1, 9, 100, 5000])]
        at += len(piece)
        connection.get_buffer(-1)[: len(piece)] = piece
        connection.buffer_updated(len(piece))
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            connection.look(_clock.monotonic_s() + chance.choice([0, 20, 40, 100, 4000]))
    for _ in range(3):
        await asyncio.sleep(0)
    connection.connection_lost(None)


def rss_mib() -> float:
    """Return what this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def many(seeds: range) -> None:
    site = Site()
    warm_at = seeds.start + len(seeds) // 10
    warm_mib = 0.0
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: troubles.append(found))
    for seed in seeds:
        if seed == warm_at:
            warm_mib = rss_mib()
        await run(site, random.Random(seed))
        assert not troubles, (seed, troubles)
    assert site.service.peers, "no call reached its handler: nothing was tested"
    async with asyncio.timeout(60):
        while site.runtime.calls.count:  # noqa: ASYNC110 - their tasks are cancelled
            await asyncio.sleep(0.01)
    assert (site.budget.used_bytes, site.connections.by_peer) == (0, {})
    await site.server.stop(0)
    assert rss_mib() - warm_mib < GROWTH_MIB


@by_seed(1000, 1_000_000)
async def test_sessions_that_are_changed_at_random_leave_nothing(seeds: range) -> None:
    # Lines about each call would be kept by pytest.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    await many(seeds)
