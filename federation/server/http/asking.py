"""Asks another process of this machine for a page, by its Unix socket or its address."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import aiohttp

from federation.server.unix_socket import reachable

_BYTES_MAX = 2**20
_ACCEPT = {"Accept": "application/json"}


class CannotAsk(Exception):
    """No answer came, or none that is a page; str() says why."""


async def ask(
    place: Path | str, target: str, limit_s: float, bytes_max: int = _BYTES_MAX
) -> tuple[int, str]:
    """Return status and body of a GET. place: a socket, or host:port.

    Raises CannotAsk, at the latest after limit_s; also for a body of more than bytes_max.
    """
    timeout = aiohttp.ClientTimeout(total=limit_s)
    host = "localhost" if isinstance(place, Path) else place
    try:
        with reachable(place) if isinstance(place, Path) else nullcontext("") as path:
            connector = aiohttp.UnixConnector(path) if path else None
            session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=_ACCEPT)
            async with session, session.get(f"http://{host}{target}") as answer:
                return answer.status, (await _body(answer, bytes_max)).decode()
    except TimeoutError:
        raise CannotAsk(f"no answer within {limit_s:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise CannotAsk(str(error) or type(error).__name__) from None


async def _body(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """Read the whole answer. Raises ValueError if it is larger."""
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > bytes_max:
            raise ValueError(f"its answer has more than {bytes_max} bytes")
    return bytes(body)
