"""One connection to the site's database: what it is set to, and how a call on it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import AsyncConnection, abc, generators, waiting
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from federation.core.errors import (
    FederationError,
    InvalidRequest,
    LeadLost,
    SourceUnavailable,
    StorageFull,
    StorageRefused,
)

Row = tuple[Any, ...]
CONNECT_S = 5

_T = TypeVar("_T")
_WAKE_S = 60.0  # psycopg looks at a socket this often, beside when something comes
# What a new connection is set to, unless the URL says otherwise. TCP_USER_TIMEOUT and keep-alives
# find out that the server's machine is gone.
_DEFAULTS: dict[str, Any] = {
    "application_name": "federation",
    "connect_timeout": CONNECT_S,
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
_PREPARED_MAX = 200  # of a connection; the program has fewer statements
_LEAD_LOST = "FDL01"  # SQLSTATEs that our functions raise
_QUOTA_USED = "FDF01"
_REFUSED = "FDR01"
_DISK_FULL = "53100"
_GOOD = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Statement(NamedTuple):
    """What is asked of a database."""

    text: str  # $1 stands for the first value
    values: Sequence[Any] = ()


class DatabaseConnection(AsyncConnection[Row]):
    """A connection that is closed where a call on it is cancelled, and keeps its statements.

    psycopg's own asks the server to cancel, and waits for that: a server that does not answer
    would be waited for twice. Its cursors take half of what a node spends on a short statement:
    each converts the statement and finds the types of its values anew.
    """

    def __init__(self, pgconn: PGconn) -> None:
        """See AsyncConnection."""
        super().__init__(pgconn)
        self._adapter: abc.Transformer | None = None  # made later: connect() sets the adapters
        self._statements: dict[tuple[str, tuple[int, ...]], bytes] = {}

    async def run(self, statement: str, values: Sequence[Any]) -> list[Row]:
        """Run one statement, which is prepared at its first use, and return its rows.

        $1 stands for the first value. Rows come in the binary format. Used by one caller at a
        time. Raises psycopg.Error.
        """
        send = await self._sending(statement, values)
        send()
        (result,) = await self.wait(generators.execute(self.pgconn))
        return self._rows(result)

    async def run_both(self, first: Statement, second: Statement) -> tuple[list[Row], list[Row]]:
        """Run a statement, and another behind its commit; return the rows of each.

        Both are sent at once, so the second begins without waiting for the network and for us. Each
        is a transaction of its own, and the second runs whatever becomes of the first.

        Raises psycopg.Error: one of them failed, or the connection did.
        """
        both = [await self._sending(*first), await self._sending(*second)]
        try:
            self.pgconn.enter_pipeline_mode()
            for send in both:
                send()
                self.pgconn.pipeline_sync()
            results = await self.wait(_answers(self.pgconn, len(both)))
            self.pgconn.exit_pipeline_mode()
        except psycopg.Error:
            self.pgconn.finish()  # nobody knows what is still to come on it
            raise
        return self._rows(results[0]), self._rows(results[1])

    async def _sending(self, statement: str, values: Sequence[Any]) -> Callable[[], None]:
        """Return what sends a statement, which is prepared first if it was not yet."""
        adapter = self._adapter = self._adapter or Transformer(self)
        packed = adapter.dump_sequence(values, [PyFormat.AUTO] * len(values))
        types, formats = adapter.types or (), adapter.formats
        name = self._statements.get((statement, types))
        if name is None and len(self._statements) < _PREPARED_MAX:
            name = b"f%d" % len(self._statements)
            self.pgconn.send_prepare(name, statement.encode(), types)
            (result,) = await self.wait(generators.execute(self.pgconn))
            self._check(result)
            self._statements[statement, types] = name
        if name is None:
            text = statement.encode()
            query = self.pgconn.send_query_params
            return partial(query, text, packed, types, formats, Format.BINARY)
        return partial(self.pgconn.send_query_prepared, name, packed, formats, Format.BINARY)

    def _rows(self, result: PGresult) -> list[Row]:
        self._check(result)
        adapter = self._adapter
        assert adapter is not None
        adapter.set_pgresult(result)
        rows = adapter.load_rows(0, result.ntuples, tuple)
        adapter.set_pgresult(None)  # or the connection would keep its memory
        return rows

    def _check(self, result: PGresult) -> None:
        if result.status not in _GOOD:
            raise error_from_result(result, self.info.encoding)

    async def wait(
        self, gen: PQGen[_T], interval: float = _WAKE_S, timeout: float | None = None
    ) -> _T:
        """See AsyncConnection."""
        try:
            return await waiting.wait_async(
                gen, self.pgconn.socket, interval=interval, timeout=timeout
            )
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


def _answers(pgconn: PGconn, count: int) -> PQGen[list[PGresult]]:
    """Send what is queued, and return the results of so many statements that each have a mark."""
    found: list[PGresult] = []
    yield from generators.send(pgconn)
    while len(found) < 2 * count:
        results = yield from generators.fetch_many(pgconn)
        if not results:
            raise psycopg.OperationalError("the connection ended before the answer")
        found += results
    return found[::2]


def settings_of(url: str, call_s: float) -> dict[str, Any]:
    """Return the URL as what connect() takes, with our defaults; call_s: the limit of a call.

    Raises StorageRefused.
    """
    given = _parsed(url)
    if given is None:
        raise StorageRefused("storage.catalogue is not a URL of PostgreSQL")
    ours = _OPTIONS.format(timeout_ms=int(call_s * 1000 * _SERVER_SHARE))
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


def text_of(error: BaseException) -> str:
    """Return what an error says in one line. libpq's texts name hosts and users, no passwords."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((said or str(error) or type(error).__name__).split())


def refusal_of(error: psycopg.Error, source: str) -> FederationError:
    """Return what it means that the database answered with this error; source: its name."""
    if error.sqlstate == _LEAD_LOST:
        return LeadLost(text_of(error))
    if error.sqlstate == _REFUSED:
        return InvalidRequest(text_of(error))
    if error.sqlstate == _QUOTA_USED:
        return StorageFull(text_of(error))
    if error.sqlstate == _DISK_FULL:
        return StorageFull(f"the disk of {source} is full")
    return SourceUnavailable(source, text_of(error))
