"""Options of a connection's socket, if it has one."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

_NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time: close sends RST


def send_at_once(transport: asyncio.Transport) -> None:
    """Do not wait for more to send (TCP_NODELAY).

    asyncio does this only for sockets that were made with the protocol's number.
    """
    _set(transport, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def drop_at_close(transport: asyncio.Transport) -> None:
    """Have the system drop what it has for the client when the socket is closed."""
    _set(transport, socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def _set(transport: asyncio.Transport, level: int, option: int, value: int | bytes) -> None:
    with suppress(OSError, AttributeError):
        transport.get_extra_info("socket").setsockopt(level, option, value)
