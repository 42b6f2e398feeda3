"""One fetch of the keys that an issuer publishes at a URL."""

from __future__ import annotations

import asyncio
import ssl
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from federation.config.types import Address
from federation.core.bounded_body import whole_body
from federation.core.errors import FederationError
from federation.core.http_proxy import proxy_for

FETCH_S = 10.0  # for all of it
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


class KeysUnavailable(FederationError):
    """A URL gave no keys."""


async def fetch_jwks(url: str, server_cert: Path | None, max_bytes: int) -> bytes:
    """Return what is at a URL, through the proxy that the environment names.

    Redirects are not followed: they could lead to another host, or to plain HTTP.

    Raises KeysUnavailable, at the latest after FETCH_S; also for more than max_bytes.
    """
    # Not above: few nodes fetch keys, and it is a sixth of the CPU of a start.
    aiohttp = await asyncio.to_thread(import_module, "aiohttp")
    try:
        async with asyncio.timeout(FETCH_S):
            context = None
            if url.startswith("https:"):
                context = await asyncio.to_thread(_context, server_cert)
            async with (
                # Not unpacked: a kilobyte could become gigabytes before its size is looked at.
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.get(
                    url,
                    allow_redirects=False,
                    headers=_HEADERS,
                    proxy=_proxy_to(url),
                    ssl=context or True,
                ) as answer,
            ):
                if 300 <= answer.status < 400:
                    raise KeysUnavailable(
                        f"status {answer.status}: redirects are not followed; configure the URL "
                        "that it leads to"
                    )
                if answer.status != 200:
                    raise KeysUnavailable(f"status {answer.status}")
                # Bounded: whoever answers there is not trusted before its keys are checked.
                return await whole_body(answer.content.iter_any(), max_bytes)
    except TimeoutError:
        raise KeysUnavailable(f"no whole answer within {FETCH_S:g} s") from None
    except aiohttp.ClientResponseError as error:
        # Not its own text, which has the proxy's URL, and so its password.
        raise KeysUnavailable(f"status {error.status} {error.message}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise KeysUnavailable(str(error) or type(error).__name__) from None


def _proxy_to(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme != "https":
        return None  # of this machine: nothing would prove that what a proxy gives are its keys
    return proxy_for(str(Address(parts.hostname or "", parts.port or 443)), tls=True)


def _context(server_cert: Path | None) -> ssl.SSLContext:
    """Return what checks the server's certificate; blocks. Raises OSError, SSLError."""
    return ssl.create_default_context(cafile=server_cert)
