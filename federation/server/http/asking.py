"""Asks another process of this machine for pages, by its Unix socket or its address."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from pathlib import Path

import aiohttp

from federation.core.bounded_body import whole_body
from federation.server.unix_socket import reachable

_BYTES_MAX = 2**20
_ACCEPT = {"Accept": "application/json"}


class CannotAsk(Exception):
    """No answer came, or none that is a page; str() says why."""


class Asker:
    """Asks one process, on connections that it keeps for the next question; close it."""

    def __init__(self, place: Path | str) -> None:
        """place: a socket, or host:port."""
        self.place = place
        # HTTP/1.1 demands a Host header; on a socket it decides nothing.
        self._host = "localhost" if isinstance(place, Path) else place
        self._session: aiohttp.ClientSession | None = None
        self._folder = ExitStack()  # the socket is reached through it

    def __repr__(self) -> str:
        return f"<Asker of {self.place}>"

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        self._folder.close()

    async def ask(
        self, target: str, limit_s: float, bytes_max: int = _BYTES_MAX
    ) -> tuple[int, str]:
        """Return status and body of a GET.

        Raises CannotAsk, at the latest after limit_s; also for a body of more than bytes_max.
        """
        limit = aiohttp.ClientTimeout(total=limit_s)
        try:
            if self._session is None:
                self._session = self._begin()
            url = f"http://{self._host}{target}"
            async with self._session.get(url, timeout=limit) as answer:
                body = await whole_body(answer.content.iter_any(), bytes_max)
                return answer.status, body.decode()
        except TimeoutError:
            raise CannotAsk(f"no answer within {limit_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CannotAsk(str(error) or type(error).__name__) from None

    def _begin(self) -> aiohttp.ClientSession:
        connector = None
        if isinstance(self.place, Path):
            connector = aiohttp.UnixConnector(self._folder.enter_context(reachable(self.place)))
        return aiohttp.ClientSession(connector=connector, headers=_ACCEPT)


async def ask(place: Path | str, target: str, limit_s: float) -> tuple[int, str]:
    """Ask once. See Asker."""
    async with aclosing(Asker(place)) as asker:
        return await asker.ask(target, limit_s)
