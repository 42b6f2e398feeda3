"""TLS handshakes of servers that count a connection before its handshake costs anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from federation.access.tls_contexts import Contexts


class AwaitsHandshake(asyncio.Protocol):
    """A connection until its TLS handshake begins. Nothing is read from it before."""

    def __init__(self, begin: Callable[[asyncio.Transport], None]) -> None:
        """begin: called with the connection's transport as soon as it has come."""
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()  # what comes is for start_tls
        self._begin(transport)


async def secure(
    transport: asyncio.Transport,
    connection: asyncio.Protocol,
    contexts: Contexts,
    timeout_s: float,
    release: Callable[[], None],
    refused: Callable[[OSError], None] = lambda _: None,
) -> None:
    """Make the handshake of a connection that has come, and hand it to its protocol.

    release: called when the handshake no longer counts; connection_made counts anew. refused: is
    told why a handshake failed; the connection is ended then.
    """
    try:
        secured = await asyncio.get_running_loop().start_tls(
            transport,
            connection,
            contexts.current(),
            server_side=True,
            ssl_handshake_timeout=timeout_s,
        )
    except OSError as error:  # no TLS, too slow, or no descriptors left
        refused(error)
        secured = None
    finally:
        # In any case, and before connection_made(), which counts the connection again.
        release()
    if secured is None:
        transport.abort()
    else:
        connection.connection_made(secured)
