"""The protocol between parent and worker: lines of JSON over a pair of sockets.

The parent sends once what to serve. The worker reports when it serves, that it is alive, and how
long its end may take. When the parent's side is closed the parent has ended: the worker then drains
as at SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from federation.config.model import Config
from federation.server.passed_sockets import PassedSockets
from federation.server.worker_slot import WorkerSlot

LINE_MAX = 16 * 2**20  # a configuration; read with this bound


class WorkerStart(NamedTuple):
    """What a worker has to serve."""

    config: Config
    file: Path | None  # what SIGHUP reads again
    slot: WorkerSlot
    passed: PassedSockets
    again: bool  # it takes the place of one that died


def encode_orders(
    config: Config, file: Path | None, slot: WorkerSlot, descriptors: list[int], *, again: bool
) -> bytes:
    """Return the line that read_orders takes."""
    facts = {
        "config": config.model_dump(mode="json", by_alias=True),
        "file": None if file is None else str(file),
        # The slot. All names here stay as they are: after an upgrade, a parent of an older version
        # starts workers of the new one.
        "share": [slot.number, slot.of, slot.ports, slot.http, slot.parent],
        "descriptors": descriptors,
        "again": again,
    }
    return json.dumps(facts).encode() + b"\n"


class Control:
    """The worker's end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def read_orders(self) -> WorkerStart | None:
        """Wait for the parent's line; None when the parent is gone."""
        with self._channel.makefile("rb") as lines:
            line = lines.readline(LINE_MAX)
        # A parent that died in the middle of it leaves half a line.
        if not line.endswith(b"\n"):
            return None
        facts = json.loads(line)
        number, of, ports, http, parent = facts["share"]
        sockets = [(f"descriptor {fd}", _adopt(fd)) for fd in facts["descriptors"]]
        return WorkerStart(
            Config.model_validate(facts["config"]),
            None if facts["file"] is None else Path(facts["file"]),
            WorkerSlot(number, of, tuple(ports), http, parent),
            PassedSockets(sockets),
            facts["again"],
        )

    def send(self, **facts: Any) -> None:
        """Send a message to the parent; when_gone notices one that has ended."""
        try:
            self._channel.sendall(json.dumps(facts).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return

    def when_gone(self, gone: Callable[[], None]) -> None:
        """Call gone() once the parent has ended; needs a running event loop."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._channel)
            gone()

        loop.add_reader(self._channel, ended)  # it sends nothing more


def _adopt(descriptor: int) -> socket.socket:
    found = socket.socket(fileno=descriptor)
    found.set_inheritable(False)
    found.setblocking(False)
    return found
