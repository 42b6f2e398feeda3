"""Runs a node in this process until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from federation import logs
from federation.access_files import AccessFiles, load_access
from federation.assembly import open_node
from federation.cli import process, systemd
from federation.cli.advice import advice
from federation.cli.command import FOUND_PROBLEMS
from federation.cli.reloading import Reloader
from federation.clock import SystemClock
from federation.config import Config
from federation.node import Node
from federation.passed_sockets import PassedSockets, passed_sockets
from federation.tasks import Background

_log = structlog.get_logger(__name__)
_CLOSE_S = 10.0  # for closing the storage after the drain time; a hung disk takes for ever
_FLUSH_S = 1.0

Ready = Callable[[Node], None]


def run(config: Config, ready: Ready, file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; ready(node) runs once every port answers.

    file: where the configuration came from; SIGHUP has it read again.

    Raises ConfigError before anything is touched, CannotStart, StorageRefused.
    """
    process.prepare()
    passed = passed_sockets(os.environ, os.getpid())
    files = load_access(config)
    flush = logs.configure(config.log)
    for item in advice(config):
        _log.warning(item.event, text=item.text)
    try:
        asyncio.run(_serve(config, files, ready, file, passed, flush))
    finally:
        flush(_FLUSH_S)


async def _serve(
    config: Config,
    files: list[AccessFiles],
    ready: Ready,
    file: Path | None,
    passed: PassedSockets,
    flush: logs.Flush,
) -> None:
    stop, hangup = asyncio.Event(), asyncio.Event()
    _handle_signals(stop, hangup, flush)
    clock = SystemClock()
    node = await open_node(config, files, clock)
    background = Background()
    if not stop.is_set():  # a signal during the start waits until what was begun is whole
        await node.start(passed)
        node.announce(config=None if file is None else str(file))
        background.start(Reloader(config, file, node, clock).run(hangup), "reload")
        process.settle()
        ready(node)
        systemd.notify("READY=1")
        await stop.wait()
    systemd.notify("STOPPING=1")
    await background.close()
    limit_s = node.drain_s + _CLOSE_S
    asyncio.get_running_loop().call_later(limit_s, _give_up, limit_s, flush)
    await node.stop()


def _handle_signals(stop: asyncio.Event, hangup: asyncio.Event, flush: logs.Flush) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_asked_to_stop, number, stop, flush))
    loop.add_signal_handler(signal.SIGHUP, hangup.set)  # one during the start is served after it


def _asked_to_stop(number: signal.Signals, stop: asyncio.Event, flush: logs.Flush) -> None:
    if stop.is_set():
        _log.warning("second_signal", signal=number.name)
        flush(_FLUSH_S)
        os._exit(128 + number)
    _log.info("signal", signal=number.name)
    stop.set()


def _give_up(limit_s: float, flush: logs.Flush) -> None:
    _log.error("end_took_too_long", limit_s=limit_s)
    flush(_FLUSH_S)
    os._exit(FOUND_PROBLEMS)
