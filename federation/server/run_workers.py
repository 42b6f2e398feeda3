"""Runs a node as several worker processes: `workers: N`.

The parent serves nothing itself but HTTP, where it answers for all. It keeps the ports, starts the
workers, starts one that dies again, hands signals on, and ends with the highest of their statuses.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from federation import __version__
from federation.access.setup import LoadedFiles, load_access, make_http_access
from federation.access.watched_file import follow
from federation.config.model import Config
from federation.core.clock import Clock, SystemClock
from federation.core.tasks import Background, FailingWork
from federation.observability import logs
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LimitHits
from federation.server import process, systemd
from federation.server.config_warnings import advice
from federation.server.http import HttpServer
from federation.server.http.page_loading import LazyDashboard
from federation.server.http.serving import http_servers
from federation.server.passed_sockets import PassedSockets, passed_sockets
from federation.server.reload import RELOAD
from federation.server.run import END_S, FLUSH_S, Ready
from federation.server.server_factory import check_installed
from federation.server.worker_slot import WorkerSlot
from federation.server.workers.control import encode_orders
from federation.server.workers.pages import AggregatedPages
from federation.server.workers.ports import KeptPorts
from federation.server.workers.supervisor import Supervisor
from federation.server.workers.worker import Worker
from federation.storage.factory import operations_on

if TYPE_CHECKING:
    from federation.access.fetched_keys import FetchedKeys

_log = structlog.get_logger(__name__)
_RELOAD_S = 10.0
_LOOK_EVERY_S = 0.05


def run_workers(config: Config, ready: Ready, file: Path | None = None) -> None:
    """Serve with config.workers processes until SIGTERM or SIGINT, then have all drain.

    Exits with the highest status of the workers, and with that of one that could not start.

    Raises ConfigError before anything is touched, CannotStart.
    """
    process.prepare()
    passed = passed_sockets(os.environ, os.getpid())
    check_installed(config.transport)
    files = load_access(config)  # errors in the files are reported once, by the parent
    flush = logs.configure(config.log)
    for item in advice(config, file):
        _log.warning(item.event, text=item.text)
    try:
        status = asyncio.run(_Parent(config, files, file, SystemClock()).serve(passed, ready))
    finally:
        flush(FLUSH_S)
    if status:
        sys.exit(status)


class _Parent:
    """The parent's state."""

    def __init__(self, config: Config, files: LoadedFiles, file: Path | None, clock: Clock) -> None:
        self._config = config
        self._files = files
        self._file = file
        self._clock = clock
        self._metrics = Metrics()
        self._ports = KeptPorts()
        self._http: HttpServer | None = None
        self._sockets: list[HttpServer] = []
        self._asked_for_tls = asyncio.Event()
        self._fetched: FetchedKeys | None = None
        self._tasks = Background()
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()

    async def serve(self, passed: PassedSockets, ready: Ready) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, partial(self._asked_to_stop, number))
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        config = self._config
        pages: AggregatedPages | None = None

        def ended(worker: Worker) -> None:
            if pages is not None:
                pages.ended(worker)

        # Before any worker: a mistake is reported once, and port 0 becomes one port for all.
        await self._ports.take([listener.address for listener in config.listeners], passed)
        addresses = [str(address) for address in self._ports.addresses]
        descriptors = [each.fileno() for each in self._ports.passed]
        self._supervisor = Supervisor(config.workers, self._orders, descriptors, self._clock, ended)
        try:
            if config.http.address is not None or config.http.socket is not None:
                facts = {
                    "node": config.node_name,
                    "version": __version__,
                    "listeners": addresses,
                }
                pages = AggregatedPages(self._supervisor, facts, self._metrics, self._clock)
                await self._serve_pages(pages, passed)
            passed.check_all_taken()
            status = await self._while_serving(ready, addresses)
        finally:
            await self._tasks.close()
            for each in (*self._sockets, self._http):
                if each is not None:
                    await each.stop()
            if pages is not None:
                await pages.close()
            self._ports.close()
        return status

    async def _serve_pages(self, pages: AggregatedPages, passed: PassedSockets) -> None:
        settings, clock = self._config.http, self._clock
        pages.dashboard = LazyDashboard(self._config, clock)
        access = make_http_access(self._config, self._files.http, self._metrics, clock)
        hits = LimitHits(self._metrics, clock)
        self._http, self._sockets = http_servers(settings, pages.answer, access, hits, clock)
        if self._http is not None:
            await self._http.start(passed)
        for each in self._sockets:
            await each.start()
        self._keep(pages.run, "counts of the workers")
        if access is not None and access.watched:
            self._keep(lambda: follow(access.watched, self._asked_for_tls, clock), "tls-files")
        self._fetched = None if access is None else access.fetched
        if self._fetched is not None:
            self._keep(self._fetched.run, f"keys from {self._fetched.url}")

    def _keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Keep a task running after failures; the workers themselves report readiness."""
        self._tasks.keep(work, name, self._clock, FailingWork())

    def _orders(self, number: int, again: bool) -> bytes:
        ports = tuple(address.port for address in self._ports.addresses)
        http = None if self._http is None else str(self._http.place)
        slot = WorkerSlot(number, self._config.workers, ports, http, os.getpid())
        descriptors = [each.fileno() for each in self._ports.passed]
        return encode_orders(self._config, self._file, slot, descriptors, again=again)

    async def _while_serving(self, ready: Ready, addresses: list[str]) -> int:
        """Run the workers to their end; return the status to exit with."""
        stopping = self._tasks.start(self._stop.wait(), "signal to stop")
        starting = self._tasks.start(self._supervisor.start(), "start of the workers")
        # A signal during the start ends it, too.
        await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
        failed = starting.result() if starting.done() else 0
        if not failed and not stopping.done():
            self._keep(self._reload_on_hangup, "reload")
            http = None if self._http is None else str(self._http.place)
            workers = len(self._supervisor.workers)
            _log.info("all_serving", listeners=addresses, http=http, workers=workers)
            process.settle()
            ready(addresses)
            systemd.notify("READY=1")
            self._feed_watchdog()
            await stopping
        systemd.notify("STOPPING=1")
        ended = await self._supervisor.stop(self._config.limits.drain + END_S)
        # The status of a worker that could not start says more than how the others ended.
        return failed or ended

    def _feed_watchdog(self) -> None:
        """Feed the service manager's watchdog as long as the workers report that they are alive."""
        within_s = systemd.watchdog_s(os.environ, os.getpid())
        if within_s is not None:
            alive = partial(self._supervisor.is_alive, within_s)
            tell = systemd.notify_alive
            feeding = systemd.feed_watchdog(within_s, alive, self._clock, tell)
            self._tasks.start(feeding, "watchdog")

    def _asked_to_stop(self, number: signal.Signals) -> None:
        if self._stop.is_set():  # a second one: the workers end at once, and so does this process
            self._supervisor.signal(number)
            return
        _log.info("signal", signal=number.name)
        self._stop.set()

    async def _reload_on_hangup(self) -> None:
        """Forward SIGHUP, and notify the service manager when all workers have reloaded."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            began_s = self._clock.monotonic_s()
            systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={int(began_s * 1_000_000)}")
            self._supervisor.signal(signal.SIGHUP)
            self._asked_for_tls.set()
            if self._fetched is not None:
                self._fetched.look_again()
            operations = operations_on(self._config.data_dir, self._config.storage)
            # A worker that dies meanwhile never announces that it has reloaded, so only the time
            # limit ends the wait. Its successor reads the file at its start.
            pids = {worker.pid for worker in self._supervisor.workers}
            while self._clock.monotonic_s() < began_s + _RELOAD_S:
                served = await asyncio.to_thread(operations.processes)
                if pids <= {each.get("pid") for each in served if _reloaded(each, began_s)}:
                    break
                await self._clock.sleep(_LOOK_EVERY_S)
            systemd.notify("READY=1")


def _reloaded(announced: dict[str, Any], since_s: float) -> bool:
    outcome: dict[str, Any] = announced.get(RELOAD, {})
    return bool(outcome.get("began-monotonic-s", 0.0) >= since_s)
