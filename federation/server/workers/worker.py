"""One worker as its parent sees it: its process, its reports, its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from federation.core.clock import Clock
from federation.server.workers.control import LINE_MAX


class Worker:
    """A process that runs `federation worker`."""

    def __init__(self, number: int, clock: Clock) -> None:
        self.number = number
        self._clock = clock
        self.serving = asyncio.Event()
        self.http: Path | None = None  # its socket, where it answers; known once it serves
        self.lives_s: float | None = None  # monotonic time of its last keep-alive
        self.ending_within_s: float | None = None  # how long its end may take, as it reported
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.number} pid {self.pid}>"

    @property
    def pid(self) -> int | None:
        """The process, None before it is started."""
        return None if self._process is None else self._process.pid

    async def run(self, orders: bytes, descriptors: Sequence[int]) -> int:
        """Start it and send its orders; return its exit status once it has ended.

        A status above 128 stands for a signal, as in a shell.
        """
        # The worker gets its end as standard input. Each side notices when the other is gone, and
        # no file or port is needed.
        mine, its = socket.socketpair()
        with its:
            self._process = await asyncio.create_subprocess_exec(
                *command(),
                stdin=its.fileno(),
                pass_fds=descriptors,
                env=_environment(),
                # Of its own, so that Ctrl-C reaches it through the parent only, and once.
                process_group=0,
            )
        reader, writer = await asyncio.open_connection(sock=mine, limit=LINE_MAX)
        try:
            with suppress(ConnectionError):  # it has ended already: its status says why
                writer.write(orders)
                await self._listen(reader)
            status = await self._process.wait()
        finally:
            writer.close()
        return 128 - status if status < 0 else status

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            facts: dict[str, Any] = json.loads(line)
            if "serving" in facts:
                self.http = Path(facts["serving"]["http-socket"])
                self.lives_s = self._clock.monotonic_s()
                self.serving.set()
            if "lives" in facts:
                self.lives_s = self._clock.monotonic_s()
            if "ending-within-s" in facts:
                self.ending_within_s = facts["ending-within-s"]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def command() -> list[str]:
    """Return how this same program is run as a worker.

    -P, where the parent was not itself started with -m: a folder `federation` in the directory
    that somebody starts the node from must not become the program.
    """
    main = sys.modules["__main__"]
    safe = [] if getattr(main, "__spec__", None) is not None else ["-P"]
    return [sys.executable, *safe, "-m", "federation", "worker"]


def _environment() -> dict[str, str]:
    """Return this process's, without the service manager: only the parent talks to that."""
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
