"""A bounded number of connections to the site's database, and its failures as our types.

Every call is one statement, and so one transaction, within a time limit; or two, of which the
second does not wait for our answer to the first. A call goes on if its caller is cancelled, so that
its connection can be used again; at the time limit the connection is closed instead. psycopg's
own pipeline mode is not used, as it hangs on large arguments; two statements are sent by libpq's.

A site may have more nodes than the server has room for all their connections. So connections that
were not needed for a while are closed, and a node that gets no further one shares those it has.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg.adapt import AdaptersMap

from federation.core.breaker import Breaker, BreakerState
from federation.core.clock import Clock
from federation.core.errors import FederationError, SourceUnavailable
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.database_connection import (
    CONNECT_S,
    DatabaseConnection,
    Row,
    Statement,
    refusal_of,
    settings_of,
    text_of,
)

SOURCE = "the site's database"

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)

_CONNECT_AGAIN_S = 5.0  # after a further connection was refused
_IDLE_S = 60.0  # after which a connection that nobody needed is closed
_PROBE_EVERY_S = 1.0  # while the database is away
_WAITING_MAX = 2000  # calls that wait for a connection
_TRIES = 5  # of a transaction that lost to another one
_CONFLICTS = ("40001", "40P01")
_LOCKED = "55P03"  # lock_timeout is over
_LOCKED_S = 1.0  # then a script is tried again
_READ_ONLY = "25006"  # a standby, or a primary that was demoted: another server is the primary


class _NoAnswer(psycopg.OperationalError):
    """The time limit of a call is over; the connection is closed."""


class DatabaseConnections:
    """Connections to one database. Used from the event loop."""

    def __init__(self, url: str, clock: Clock, most: int, call_s: float) -> None:
        """most: connections open at a time; call_s: the time limit of a call.

        Raises StorageRefused (the URL cannot be read).
        """
        self._settings = settings_of(url, call_s)
        self._call_s = call_s
        self._clock = clock
        self._most = most
        self._adapters = AdaptersMap(psycopg.adapters)
        arrays.register(self._adapters)
        self._idle: deque[tuple[DatabaseConnection, float]] = deque()  # since when; the newest last
        self._open = 0
        self._refused_until_s = 0.0  # no further connection is asked for before that
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._calls: set[asyncio.Future[Any]] = set()
        self._breaker = Breaker(
            failures_max=1, delay_max_s=_PROBE_EVERY_S, probe_max_s=call_s + CONNECT_S
        )
        self._jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._told = ""  # why it is away, for callers
        self._given_up = ""

    def __repr__(self) -> str:
        state = f"{self._open} open, {len(self._idle)} idle, {len(self._waiting)} waiting"
        return f"<DatabaseConnections {self._breaker.state.value}: {state}>"

    @property
    def trouble(self) -> str:
        """Why the database is taken to be away; empty: it answers."""
        return self._given_up or self._breaker.last_error

    @property
    def are_given_up(self) -> bool:
        """Whether this process asks the database nothing any more."""
        return bool(self._given_up)

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

    async def ask(self, statement: str, *values: Any, twice: bool = True) -> list[Row]:
        """Run a statement ($1 stands for the first value) and return its rows.

        twice: it may be run once more where the connection was lost on the way, so that a restart
        of the database is not noticed. What a second run would do again has to say False.

        Raises SourceUnavailable (away, too slow, or it refuses), StorageFull (its disk), LeadLost,
        InvalidRequest (a function says that it is one).
        """
        return await self._shielded(lambda one: one.run(statement, values), twice=twice)

    async def ask_one(self, statement: str, *values: Any, twice: bool = True) -> Row:
        """Do what ask() does for a statement with exactly one row.

        Raises SourceUnavailable also where there is none: the tables are not filled yet.
        """
        return (await self.ask_some(statement, *values, twice=twice))[0]

    async def ask_some(self, statement: str, *values: Any, twice: bool = True) -> list[Row]:
        """Do what ask_one() does for a statement with one row or more."""
        rows = await self.ask(statement, *values, twice=twice)
        if not rows:
            raise SourceUnavailable(SOURCE, "its tables are empty; is it being restored?")
        return rows

    async def ask_both(self, first: Statement, second: Statement) -> tuple[list[Row], list[Row]]:
        """Do what ask() does for a statement, and for another that follows its commit.

        The two take one journey to the database, and both are run once more where the connection
        was lost on the way.
        """
        return await self._shielded(lambda one: one.run_both(first, second))

    async def _shielded(
        self, work: Callable[[DatabaseConnection], Awaitable[_T]], *, twice: bool = True
    ) -> _T:
        """Do it on some connection; it goes on if the caller is cancelled."""
        call = asyncio.ensure_future(self._do(work, twice=twice))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.shield(call)

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

    async def _do(self, work: Callable[[DatabaseConnection], Awaitable[_T]], *, twice: bool) -> _T:
        tries = 0
        while True:
            tries += 1
            connection = await self._take()
            try:
                found = await self._in_time(work(connection))
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
                return found
            finally:
                self._give_back(connection)

    async def _in_time(self, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._call_s):
                return await work
        except TimeoutError:
            raise _NoAnswer(f"no answer within {self._call_s:g} s") from None

    def _translated(self, error: psycopg.Error, *, is_lost: bool) -> FederationError:
        """Return what a failure means, and remember it if the database is away."""
        if is_lost or error.sqlstate is None:
            told = str(error) if isinstance(error, _NoAnswer) else "the connection was lost"
            return self._failed(text_of(error), told)
        self._answered()
        return refusal_of(error, SOURCE)

    def _answered(self) -> None:
        if self._breaker.succeeded():
            _log.info("catalogue_back")

    def _failed(self, reason: str, told: str) -> SourceUnavailable:
        """Remember that the database is away, and return what callers are told.

        reason: for the operator. libpq's texts have the server's host and the user: no client's
        business.
        """
        self._told = told
        if self._breaker.failed(self._clock.monotonic_s(), reason, self._jitter):
            _log.error("catalogue_away", reason=reason)
        return SourceUnavailable(SOURCE, told)

    async def _take(self) -> DatabaseConnection:
        """Return a connection that nobody uses. Raises SourceUnavailable."""
        if self._given_up:
            raise SourceUnavailable(SOURCE, self._given_up)
        is_due = self._breaker.probe_due(self._clock.monotonic_s())
        if not (is_due or self._breaker.allows()):
            raise SourceUnavailable(SOURCE, self._told)
        has_waited = False
        while True:
            if self._idle:
                return self._idle.pop()[0]
            if self._may_connect() and (made := await self._connect()) is not None:
                return made
            await self._wait(is_first=has_waited)  # somebody who came later may have been faster
            has_waited = True
            if self._breaker.state is BreakerState.OPEN:
                self._wake_one()  # the next one that waits hears it, too
                raise SourceUnavailable(SOURCE, self._told)

    async def _wait(self, *, is_first: bool) -> None:
        """Wait until a connection may be free; is_first: before all others.

        Raises SourceUnavailable.
        """
        if not is_first and len(self._waiting) >= _WAITING_MAX:
            raise SourceUnavailable(SOURCE, "too many calls wait for it")
        turn = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if is_first else self._waiting.append)(turn)
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

    async def _connect(self) -> DatabaseConnection | None:
        """Return a further connection; None: others of this node have to do.

        Raises SourceUnavailable: there are no others.
        """
        self._open += 1
        try:
            async with asyncio.timeout(CONNECT_S):
                return await DatabaseConnection.connect(
                    autocommit=True, context=self._adapters, **self._settings
                )
        except (psycopg.Error, TimeoutError, OSError) as error:
            self._closed_one()
            is_late = isinstance(error, TimeoutError)
            reason = f"no connection within {CONNECT_S} s" if is_late else text_of(error)
            if self._open:  # the server has no room for more; were it away, these would fail, too
                self._refused_until_s = self._clock.monotonic_s() + _CONNECT_AGAIN_S
                _log.warning("catalogue_connection_refused", open=self._open, reason=reason)
                return None
            told = reason if is_late else "it takes no connection"
            raise self._failed(reason, told) from error
        except BaseException:
            self._closed_one()
            raise

    def _give_back(self, connection: DatabaseConnection) -> None:
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
