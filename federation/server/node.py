"""A running node: binds every port or none, serves, watches itself, drains and ends.

Knows servers, and nothing of what the calls mean or where blobs are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog

from federation.access.watched_file import Watched, follow
from federation.config.model import Config, LimitsConfig, ListenerConfig
from federation.config.types import Address
from federation.core.clock import Clock
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LimitHits
from federation.server.connection_guard import ConnectionGuard
from federation.server.http import HttpServer
from federation.server.passed_sockets import PassedSockets
from federation.server.readiness import Phase, Readiness

if TYPE_CHECKING:
    from federation.access.fetched_keys import FetchedKeys
    from federation.access.live_tls import LiveTls

_log = structlog.get_logger(__name__)

_LAG_EVERY_S = 0.1
_HEALTH_EVERY_S = 0.5


class ListeningServer(Protocol):
    """What serves one protocol on one listener: bind, start, stop, each once and in this order."""

    @property
    def listener(self) -> ListenerConfig:
        """Its configuration."""
        ...

    @property
    def bounds_connections(self) -> bool:
        """Whether it keeps limits.connections itself."""
        ...

    @property
    def address(self) -> Address:
        """Where it listens; with the real port once bound."""
        ...

    async def bind(self, passed: PassedSockets) -> None:
        """Take the address, or what the service manager passed for it; raises CannotStart."""
        ...

    async def start(self) -> None:
        """Begin to answer calls."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; let running ones go on for grace_s at most, then cancel them."""
        ...


class Health(Protocol):
    """The health state of one server, as its protocol reports it."""

    async def set(self, serving: bool) -> None:
        """Change the state, and notify watchers."""
        ...

    def end(self) -> None:
        """Notify watchers that it does not serve any more, and end their calls."""
        ...


class Port(NamedTuple):
    """One listener with its TLS, health and watched files."""

    server: ListeningServer
    tls: LiveTls | None
    health: Health
    watched: Sequence[Watched] = ()


class Node:
    """Owns the servers and what is behind them."""

    def __init__(
        self,
        *,
        ports: Sequence[Port],
        http: HttpServer | None,
        sockets: Sequence[HttpServer] = (),
        own_socket: Path | None = None,
        closers: Sequence[Callable[[], Awaitable[None]]],
        announce: Callable[..., None],
        readiness: Readiness,
        metrics: Metrics,
        clock: Clock,
        limits: LimitsConfig,
        apply_config: Callable[[Config], None],
        hits: LimitHits | None = None,
        watched: Sequence[Watched] = (),
        fetched: Sequence[FetchedKeys] = (),
    ) -> None:
        """Take the parts of a node that is not started.

        Args:
            ports: the listeners.
            http: serves the HTTP address.
            sockets: serve the same on Unix sockets.
            own_socket: the one of these where commands ask this process.
            closers: called in this order once no call runs any more; the storage's is the last.
            announce: called with listeners=[...], http=... once every port answers.
            readiness: the state that is reported; its phase is set here.
            metrics: where the lag of the event loop goes.
            clock: paces the watching.
            limits: drain is how long running calls may go on after stop().
            hits: where reached limits are recorded; None: connections are not counted.
            watched: files that are looked at, beside those of the ports.
            fetched: keys of tokens that are fetched from URLs; those of ports may repeat.
            apply_config: applies a new configuration to every part that can change, or to none.
        """
        self._ports = ports
        self._http = http
        self._sockets = sockets
        self.own_socket = None if own_socket is None else str(own_socket)
        self._closers = closers
        self._announce = announce
        self._readiness = readiness
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._apply_config = apply_config
        self._guard = None
        if hits is not None:
            self._guard = ConnectionGuard(limits, hits, clock, self._listening_on)
        self._announced: dict[str, Any] = {}
        self._tasks = Background()
        self._asked_for_tls = asyncio.Event()
        self._watched = [*(each for port in ports for each in port.watched), *watched]
        self._fetched = list(dict.fromkeys(fetched))

    def __repr__(self) -> str:
        return f"<Node {self._readiness.phase.value} on {', '.join(self.listeners)}>"

    @property
    def listeners(self) -> list[str]:
        """host:port of each listener; with real ports once started."""
        return [str(port.server.address) for port in self._ports]

    def _listening_on(self) -> list[int]:
        servers = (port.server for port in self._ports)
        return [each.address.port for each in servers if not each.bounds_connections]

    @property
    def http(self) -> str | None:
        """host:port of the HTTP address, if there is one."""
        return str(self._http.place) if self._http else None

    @property
    def drain_s(self) -> float:
        """How long running calls may go on after stop()."""
        return self._limits.drain

    async def start(self, passed: PassedSockets | None = None) -> None:
        """Bind everything, then answer, then announce it.

        passed: sockets of the service manager, which have to be those of some of the listeners.

        Raises CannotStart; then nothing is bound any more and everything is closed.
        """
        passed = passed or PassedSockets()
        try:
            for port in self._ports:
                await port.server.bind(passed)
            if self._http is not None:
                await self._http.start(passed)
            for each in self._sockets:
                await each.start()
            # All are bound, and none answers yet: a mistake is noticed before any client is.
            passed.check_all_taken()
            for port in self._ports:
                await port.server.start()
            self._readiness.phase = Phase.SERVING
            await self._publish_health()
            # Published only now: a command that asks the socket gets an answer.
            own_socket = {} if self.own_socket is None else {"http-socket": self.own_socket}
            self.announce(listeners=self.listeners, http=self.http, **own_socket)
        except BaseException:
            # Nothing was served yet, so nothing needs time.
            await self._end(0)
            raise
        self._keep(self._watch_lag, "loop-lag")
        self._keep(self._watch_health, "health")
        if self._guard is not None and self._listening_on():
            self._keep(self._guard.run, "connections")
        if self._watched:
            self._keep(self._watch_tls, "tls-files")
        for keys in self._fetched:
            self._keep(keys.run, f"keys from {keys.url}")
        _log.info("serving", listeners=self.listeners, http=self.http)

    def _keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._tasks.keep(work, name, self._clock, self._metrics.failing)

    def announce(self, **facts: Any) -> None:
        """Publish these facts about this process, besides those published before."""
        self._announced |= facts
        self._announce(**self._announced)

    def reload_tls(self) -> None:
        """Read certificates, keys, lists and tokens again, without waiting for a change of them."""
        # An event, not a call: files are read in a thread, by the one task that watches them.
        self._asked_for_tls.set()
        for keys in self._fetched:
            keys.look_again()

    def apply_config(self, config: Config) -> None:
        """Apply a configuration, in all that can change while a node runs.

        Raises ConfigError; then nothing has changed.
        """
        self._apply_config(config)

    async def stop(self) -> None:
        """Refuse new calls, let running ones finish for the drain time, close the rest."""
        _log.info("draining", limit_s=self.drain_s)
        self._readiness.phase = Phase.DRAINING
        for port in self._ports:
            port.health.end()
        await self._end(self.drain_s)
        _log.info("stopped")

    async def _end(self, grace_s: float) -> None:
        # Together, so that each has the whole drain time.
        await asyncio.gather(*(port.server.stop(grace_s) for port in self._ports))
        # Behind the calls: some wait for what is watched here.
        await self._tasks.close()
        for each in (*self._sockets, self._http):  # last, since they show that the node drains
            if each is not None:
                await each.stop()
        # One after the other: each may still use what the next ones close.
        for close in self._closers:
            await close()

    async def _publish_health(self) -> None:
        serving = self._readiness.refresh().serving
        # Before the listeners close, so that load balancers turn away without an error.
        for port in self._ports:
            await port.health.set(serving)

    async def _watch_health(self) -> None:
        last = self._readiness.verdict()
        while True:
            await self._clock.sleep(_HEALTH_EVERY_S)
            verdict = self._readiness.refresh()
            if verdict == last:
                continue
            last = verdict
            level = _log.info if verdict == (True, "") else _log.warning
            level("health_changed", serving=verdict.serving, reason=verdict.reason)
            await self._publish_health()

    async def _watch_tls(self) -> None:
        await follow(list(dict.fromkeys(self._watched)), self._asked_for_tls, self._clock)

    async def _watch_lag(self) -> None:
        while True:
            before_s = self._clock.monotonic_s()
            await self._clock.sleep(_LAG_EVERY_S)
            # What a sleep is late by is what a call would have waited for the loop.
            late_s = self._clock.monotonic_s() - before_s - _LAG_EVERY_S
            self._metrics.loop_lag_seconds.observe(max(0.0, late_s))
