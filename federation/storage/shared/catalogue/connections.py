"""A bounded number of connections to the site's database, and its failures as our types.

Every call is one statement, and so one transaction, within a time limit. A call goes on if its
caller is cancelled, so that its connection can be used again; at the time limit the connection is
closed instead. psycopg's pipeline mode is not used: it hangs on large arguments.

A site may have more nodes than the server has room for all their connections. So connections that
were not needed for a while are closed, and a node that gets no further one shares those it has.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection, AsyncRawCursor, waiting
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict

from federation.core.breaker import Breaker, BreakerState
from federation.core.clock import Clock
from federation.core.errors import (
    FederationError,
    LeadLost,
    SourceUnavailable,
    StorageFull,
    StorageRefused,
)
from federation.storage.shared.catalogue import arrays

SOURCE = "the site's database"
_LEAD_LOST = "FDL01"  # SQLSTATEs that our functions raise
_QUOTA_USED = "FDF01"

_T = TypeVar("_T")
_Row = tuple[Any, ...]

_log = structlog.get_logger(__name__)

_CONNECT_S = 5
_CONNECT_AGAIN_S = 5.0  # after a further connection was refused
_IDLE_S = 60.0  # after which a connection that nobody needed is closed
_PROBE_EVERY_S = 1.0  # while the database is away
_WAKE_S = 60.0  # psycopg looks at a socket this often, beside when something comes
_WAITING_MAX = 2000  # calls that wait for a connection
_TRIES = 5  # of a transaction that lost to another one
_CONFLICTS = ("40001", "40P01")
_LOCKED = "55P03"  # lock_timeout is over
_LOCKED_S = 1.0  # then a script is tried again
_DISK_FULL = "53100"
_READ_ONLY = "25006"  # a standby, or a primary that was demoted: another server is the primary
# What a new connection is set to, unless the URL says otherwise. TCP_USER_TIMEOUT and keep-alives
# find out that the server's machine is gone.
_DEFAULTS: dict[str, Any] = {
    "application_name": "federation",
    "connect_timeout": _CONNECT_S,
    "target_session_attrs": "read-write",
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
# The server gives a statement up a little earlier than we give up the server: that it waits
# for a lock does not mean that the database is away.
_OPTIONS = "-c statement_timeout={timeout_ms} -c client_encoding=UTF8 -c jit=off"
_SERVER_SHARE = 0.9


class _NoAnswer(psycopg.OperationalError):
    """The time limit of a call is over; the connection is closed."""


class _Connection(AsyncConnection[_Row]):
    """A connection that is closed where a call on it is cancelled.

    psycopg's own asks the server to cancel, and waits for that: a server that does not answer
    would be waited for twice.
    """

    async def wait(
        self, gen: PQGen[_T], interval: float = _WAKE_S, timeout: float | None = None
    ) -> _T:
        try:
            return await waiting.wait_async(
                gen, self.pgconn.socket, interval=interval, timeout=timeout
            )
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


class DatabaseConnections:
    """Connections to one database. Used from the event loop."""

    def __init__(self, url: str, clock: Clock, most: int, call_s: float) -> None:
        """most: connections open at a time; call_s: the time limit of a call.

        Raises StorageRefused (the URL cannot be read).
        """
        self._settings = _settings_of(url, int(call_s * 1000 * _SERVER_SHARE))
        self._call_s = call_s
        self._clock = clock
        self._most = most
        self._adapters = AdaptersMap(psycopg.adapters)
        arrays.register(self._adapters)
        self._idle: deque[tuple[_Connection, float]] = deque()  # since when; the newest last
        self._open = 0
        self._refused_until_s = 0.0  # no further connection is asked for before that
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._calls: set[asyncio.Future[list[_Row]]] = set()
        self._breaker = Breaker(
            failures_max=1, delay_max_s=_PROBE_EVERY_S, probe_max_s=call_s + _CONNECT_S
        )
        self._jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._given_up = ""

    def __repr__(self) -> str:
        state = f"{self._open} open, {len(self._idle)} idle, {len(self._waiting)} waiting"
        return f"<DatabaseConnections {self._breaker.state.value}: {state}>"

    @property
    def trouble(self) -> str:
        """Why the database is taken to be away; empty: it answers."""
        return self._given_up or self._breaker.last_error

    def give_up(self, reason: str) -> None:
        """Ask the database nothing any more: every later call fails with this reason."""
        if not self._given_up:
            _log.error("catalogue_given_up", reason=reason)
        self._given_up = reason

    async def close(self) -> None:
        """End the calls under way, and close all connections."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._drop_idle()

    async def ask(self, statement: str, *values: Any, twice: bool = True) -> list[_Row]:
        """Run a statement ($1 stands for the first value) and return its rows.

        twice: it may be run once more where the connection was lost on the way, so that a restart
        of the database is not noticed. What a second run would do again has to say False.

        Raises SourceUnavailable (away, too slow, or it refuses), StorageFull (its disk), LeadLost.
        """
        call = asyncio.ensure_future(self._ask(statement, values, twice=twice))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.shield(call)

    async def ask_one(self, statement: str, *values: Any, twice: bool = True) -> _Row:
        """Do what ask() does for a statement with exactly one row."""
        (row,) = await self.ask(statement, *values, twice=twice)
        return row

    async def run_script(self, script: str) -> None:
        """Run several statements in one transaction, again if others hold locks that it needs.

        Raises SourceUnavailable, StorageFull.
        """
        for tries in range(1, _TRIES + 1):
            connection = await self._take()
            try:
                async with asyncio.timeout(self._call_s):
                    await connection.execute(script.encode())
            except TimeoutError:
                late = _NoAnswer(f"no answer within {self._call_s:g} s")
                raise self._translated(late, is_lost=True) from None
            except psycopg.Error as error:
                if error.sqlstate not in (_LOCKED, *_CONFLICTS) or tries == _TRIES:
                    raise self._translated(error, is_lost=connection.closed) from error
            else:
                return
            finally:
                self._give_back(connection)
            await self._clock.sleep(_LOCKED_S)

    async def _ask(self, statement: str, values: Sequence[Any], *, twice: bool) -> list[_Row]:
        tries = 0
        while True:
            tries += 1
            connection = await self._take()
            try:
                rows = await self._run(connection, statement, values)
            except psycopg.Error as error:
                if error.sqlstate == _READ_ONLY:
                    await connection.close()  # a new one finds the primary
                lost = connection.closed
                is_retryable = twice and tries == 1 and not isinstance(error, _NoAnswer)
                again = error.sqlstate in _CONFLICTS or (lost and is_retryable)
                if lost:
                    await self._drop_idle()  # they were lost with it
                if not again or tries == _TRIES:
                    raise self._translated(error, is_lost=lost) from error
            else:
                self._answered()
                return rows
            finally:
                self._give_back(connection)

    async def _run(
        self, connection: _Connection, statement: str, values: Sequence[Any]
    ) -> list[_Row]:
        cursor = AsyncRawCursor(connection)
        try:
            async with asyncio.timeout(self._call_s):
                await cursor.execute(statement.encode(), values, prepare=True, binary=True)
        except TimeoutError:
            raise _NoAnswer(f"no answer within {self._call_s:g} s") from None
        return await cursor.fetchall() if cursor.description else []

    def _translated(self, error: psycopg.Error, *, is_lost: bool) -> FederationError:
        """Return what a failure means, and remember it if the database is away."""
        state = error.sqlstate
        if is_lost or state is None:
            self._failed(_text(error))
            return SourceUnavailable(SOURCE, _text(error))
        self._answered()
        if state == _LEAD_LOST:
            return LeadLost(_text(error))
        if state == _QUOTA_USED:
            return StorageFull(_text(error))
        if state == _DISK_FULL:
            return StorageFull(f"the disk of {SOURCE} is full")
        return SourceUnavailable(SOURCE, _text(error))

    def _answered(self) -> None:
        if self._breaker.succeeded():
            _log.info("catalogue_back")

    def _failed(self, reason: str) -> None:
        if self._breaker.failed(self._clock.monotonic_s(), reason, self._jitter):
            _log.error("catalogue_away", reason=reason)

    async def _take(self) -> _Connection:
        """Return a connection that nobody uses. Raises SourceUnavailable."""
        if self._given_up:
            raise SourceUnavailable(SOURCE, self._given_up)
        is_due = self._breaker.probe_due(self._clock.monotonic_s())
        if not (is_due or self._breaker.allows()):
            raise SourceUnavailable(SOURCE, self._breaker.last_error)
        while True:
            if self._idle:
                return self._idle.pop()[0]
            if self._may_connect() and (made := await self._connect()) is not None:
                return made
            await self._wait()
            if self._breaker.state is BreakerState.OPEN:
                self._wake_one()  # the next one that waits hears it, too
                raise SourceUnavailable(SOURCE, self._breaker.last_error)

    async def _wait(self) -> None:
        """Wait until a connection may be free. Raises SourceUnavailable."""
        if len(self._waiting) >= _WAITING_MAX:
            raise SourceUnavailable(SOURCE, "too many calls wait for it")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._call_s):
                await turn
        except TimeoutError:
            if turn not in self._waiting:
                return  # it was woken at the same moment
            self._waiting.remove(turn)
            reason = f"no connection was free within {self._call_s:g} s"
            raise SourceUnavailable(SOURCE, reason) from None

    def _may_connect(self) -> bool:
        """Whether to ask for a further connection; the first one is always asked for."""
        if not self._open:
            return True
        return self._open < self._most and self._clock.monotonic_s() >= self._refused_until_s

    async def _connect(self) -> _Connection | None:
        """Return a further connection; None: others of this node have to do.

        Raises SourceUnavailable: there are no others.
        """
        self._open += 1
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await _Connection.connect(
                    autocommit=True, context=self._adapters, **self._settings
                )
        except (psycopg.Error, TimeoutError, OSError) as error:
            self._closed_one()
            is_late = isinstance(error, TimeoutError)
            reason = f"no connection within {_CONNECT_S} s" if is_late else _text(error)
            if self._open:  # the server has no room for more; were it away, these would fail, too
                self._refused_until_s = self._clock.monotonic_s() + _CONNECT_AGAIN_S
                _log.warning("catalogue_connection_refused", open=self._open, reason=reason)
                return None
            self._failed(reason)
            raise SourceUnavailable(SOURCE, reason) from error
        except BaseException:
            self._closed_one()
            raise

    def _give_back(self, connection: _Connection) -> None:
        if connection.closed:
            self._closed_one()
            return
        now_s = self._clock.monotonic_s()
        self._idle.append((connection, now_s))
        self._wake_one()
        oldest, since_s = self._idle[0]
        if now_s - since_s >= _IDLE_S:
            self._idle.popleft()
            oldest.pgconn.finish()
            self._closed_one()

    def _closed_one(self) -> None:
        self._open -= 1
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, deque()
        for connection, _ in idle:
            await connection.close()
            self._closed_one()


def _settings_of(url: str, timeout_ms: int) -> dict[str, Any]:
    """Return the URL as what connect() takes, with our defaults. Raises StorageRefused."""
    given = _parsed(url)
    if given is None:
        raise StorageRefused("storage.catalogue is not a URL of PostgreSQL")
    ours = _OPTIONS.format(timeout_ms=timeout_ms)
    options = f"{ours} {given.get('options') or ''}".strip()
    return {**_DEFAULTS, **given, "options": options}


def _parsed(url: str) -> dict[str, Any] | None:
    """Return what a URL says; None, and nothing of libpq's text about it, if it is none.

    A password may be in both, and the cause of an error is shown with it.
    """
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.Error:
        return None


def _text(error: BaseException) -> str:
    """Return what an error says in one line. libpq's texts name hosts and users, no passwords."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((said or str(error) or type(error).__name__).split())
