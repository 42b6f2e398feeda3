"""A network between an upstream and those who read from it: a delay each way, and a rate.

`python -m benchmarks.mirror.relay HOST:PORT MILLISECONDS BYTES_A_SECOND` prints the port it listens
on. Mirrors are there because an upstream is far away, and on loopback nothing is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

from tests.support.guard import guarded

_PIECE_BYTES = 128 * 1024
_WINDOW_BYTES = 16 * 2**20  # on their way at most: more than delay times rate, so it limits nothing


class Relay:
    """A process of its own, so that its work is nobody else's."""

    def __init__(self, target: str, delay_ms: float, bytes_s: float) -> None:
        command = [sys.executable, "-m", "benchmarks.mirror.relay"]
        self._process = subprocess.Popen(
            guarded([*command, target, str(delay_ms), str(bytes_s)]), stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.address = f"127.0.0.1:{int(self._process.stdout.readline())}"

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()


class _Line:
    """One direction, shared by all connections: what may leave when."""

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._free_at = 0.0

    async def pass_on(self, size_bytes: int) -> None:
        """Wait until the line has taken so many bytes."""
        now = time.perf_counter()
        self._free_at = max(now, self._free_at) + size_bytes / self._bytes_s
        await asyncio.sleep(self._free_at - now)


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line, delay_s: float
) -> None:
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW_BYTES // _PIECE_BYTES)

    async def leave() -> None:
        while piece := await reader.read(_PIECE_BYTES):
            await line.pass_on(len(piece))
            await under_way.put((time.perf_counter() + delay_s, piece))
        await under_way.put((time.perf_counter() + delay_s, b""))

    async def arrive() -> None:
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if not piece:
                return
            writer.write(piece)
            await writer.drain()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())
            group.create_task(arrive())
    except* ConnectionError:
        pass  # one side has gone, and the other is told by the end of its connection
    finally:
        writer.close()


async def _relay(target: str, delay_s: float, bytes_s: float) -> None:
    host, _, port = target.rpartition(":")
    there, back = _Line(bytes_s), _Line(bytes_s)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            _carry(reader, far_writer, there, delay_s), _carry(far_reader, writer, back, delay_s)
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2 * _PIECE_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1], float(sys.argv[2]) / 1000, float(sys.argv[3])))
