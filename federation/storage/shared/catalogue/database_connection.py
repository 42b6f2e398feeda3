"""One connection to the site's database: what it is set to, and how a call on it ends."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

from federation.core.errors import StorageRefused

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


class DatabaseConnection(AsyncConnection[Row]):
    """A connection that is closed where a call on it is cancelled.

    psycopg's own asks the server to cancel, and waits for that: a server that does not answer
    would be waited for twice.
    """

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
