"""Runs a node in this process until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from federation.access.setup import LoadedFiles, load_access
from federation.config.model import Config
from federation.core.clock import SystemClock
from federation.core.tasks import Background, FailingWork
from federation.observability import logs
from federation.observability.native_log import captured
from federation.server import process, systemd
from federation.server.assembly import open_node
from federation.server.config_warnings import advice
from federation.server.exit_codes import FOUND_PROBLEMS
from federation.server.passed_sockets import PassedSockets, passed_sockets
from federation.server.reload import Reloader
from federation.server.server_factory import check_installed
from federation.server.worker_slot import WorkerSlot
from federation.server.workers.control import Control

_log = structlog.get_logger(__name__)
END_S = 10.0  # for closing the storage after the drain time; a hung disk would never end
FLUSH_S = 1.0

Ready = Callable[[list[str]], None]  # is given the address of each listener, with real ports


def run_node(
    config: Config,
    ready: Ready,
    file: Path | None = None,
    *,
    slot: WorkerSlot | None = None,
    control: Control | None = None,
    passed: PassedSockets | None = None,
    again: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; ready() runs once every port answers.

    file: where the configuration came from; SIGHUP has it read again.
    slot, control, passed, again: of a worker (federation.server.workers). One that takes the
    place of one that died reads its file again at once, as the others may have done since.

    Raises ConfigError before anything is touched, CannotStart, StorageRefused.
    """
    process.prepare()
    if passed is None:
        passed = passed_sockets(os.environ, os.getpid())
    check_installed(config.transport)
    files = load_access(config)
    slot = slot or WorkerSlot()
    flush = logs.configure(config.log, worker=None if slot.alone else slot.number)
    for item in advice(config, file) if control is None else []:
        _log.warning(item.event, text=item.text)
    serving = _serve(config, files, ready, file, passed, flush, slot, control, again)
    try:
        # Around the loop: gRPC's threads write for as long as it runs.
        with captured(SystemClock()):
            asyncio.run(serving)
    finally:
        flush(FLUSH_S)


async def _serve(
    config: Config,
    files: LoadedFiles,
    ready: Ready,
    file: Path | None,
    passed: PassedSockets,
    flush: logs.Flush,
    slot: WorkerSlot,
    control: Control | None,
    again: bool,
) -> None:
    stop, hangup = asyncio.Event(), asyncio.Event()
    _handle_signals(stop, hangup, flush)
    clock = SystemClock()
    if control is not None:
        control.when_gone(partial(_parent_gone, stop))
    if again:
        # The file may have been changed since the parent read it.
        hangup.set()
    node = await open_node(config, files, clock, slot)
    background, watched = Background(), Background()
    if not stop.is_set():  # a signal during the start waits until what was begun is whole
        await node.start(passed)
        place = {} if slot.alone else slot.announced()
        node.announce(config=None if file is None else str(file), **place)
        reloader = Reloader(config, file, node, clock)
        background.keep(lambda: reloader.run(hangup), "reload", clock, FailingWork())
        if config.mesh.url is not None:
            from federation.server.mesh import watch_members  # noqa: PLC0415 - few nodes need it

            watching = partial(watch_members, config, hangup.set, clock)
            background.keep(watching, "members", clock, FailingWork())
        process.settle()
        ready(node.listeners)
        if control is not None:
            control.send(serving={"listeners": node.listeners, "http-socket": node.own_socket})
        systemd.notify("READY=1")
        _feed_watchdog(control, slot, watched)
        await stop.wait()
    systemd.notify("STOPPING=1")
    # No reload begins any more while things are closed.
    await background.close()
    limit_s = node.drain_s + END_S
    if control is not None:
        control.send(**{"ending-within-s": limit_s})
    # On the loop, not in the task below: a task that hangs cannot end itself.
    asyncio.get_running_loop().call_later(limit_s, _give_up, limit_s, flush)
    await node.stop()
    # Last: the watchdog is fed as long as the node drains.
    await watched.close()


def _feed_watchdog(control: Control | None, slot: WorkerSlot, background: Background) -> None:
    """Begin to feed the watchdog of the parent or the service manager from this event loop."""
    within_s = systemd.watchdog_s(os.environ, slot.parent or os.getpid())
    if within_s is None:
        return
    tell = systemd.notify_alive if control is None else partial(control.send, lives=True)
    feeding = systemd.feed_watchdog(within_s, lambda: True, SystemClock(), tell)
    background.start(feeding, "watchdog")


def _handle_signals(stop: asyncio.Event, hangup: asyncio.Event, flush: logs.Flush) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_asked_to_stop, number, stop, flush))
    loop.add_signal_handler(signal.SIGHUP, hangup.set)  # one during the start is served after it


def _asked_to_stop(number: signal.Signals, stop: asyncio.Event, flush: logs.Flush) -> None:
    if stop.is_set():
        _log.warning("second_signal", signal=number.name)
        flush(FLUSH_S)
        # At once, without waiting for any thread or disk.
        os._exit(128 + number)
    _log.info("signal", signal=number.name)
    stop.set()


def _parent_gone(stop: asyncio.Event) -> None:
    if not stop.is_set():
        _log.warning("parent_gone", text="the process that started this worker has ended")
        stop.set()


def _give_up(limit_s: float, flush: logs.Flush) -> None:
    _log.error("end_took_too_long", limit_s=limit_s)
    flush(FLUSH_S)
    os._exit(FOUND_PROBLEMS)
