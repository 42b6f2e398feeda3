"""From an address in the configuration to the sockets behind it: all of them, or an error."""

from __future__ import annotations

import asyncio
import errno
import socket

from federation.config.types import Address
from federation.core.errors import CannotStart

_HELP = {
    errno.EADDRINUSE: "; stop the program that has this port, or configure another address",
    errno.EACCES: "; ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE)",
    errno.EADDRNOTAVAIL: "; configure an address that this machine has",
}


async def resolve(address: Address) -> list[str]:
    """Return the IP addresses that the host resolves to.

    Raises CannotStart when there are none.
    """
    if address.is_ip:  # which needs no thread to look it up in
        return [address.host]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host,
            address.port,
            type=socket.SOCK_STREAM,
            # ADDRCONFIG leaves out IPv6 on a machine without it, where binding would fail.
            flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG,
        )
    except OSError as error:
        raise cannot_listen(address, error) from None
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def listen(address: Address, *, shared: bool = False) -> socket.socket:
    """Return a listening socket on this IP address; [::] takes IPv4 too.

    shared: other processes of this node answer on the same port.

    Raises CannotStart with the system's reason.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for connections of the last process that are in TIME_WAIT.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # A host name may stand for an IPv6 and an IPv4 address, which get a socket each. Only
            # [::] takes both.
            only_v6 = not address.is_wildcard
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        listening.bind((address.host, address.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise cannot_listen(address, error) from None
    listening.setblocking(False)
    return listening


def cannot_listen(address: Address, error: OSError) -> CannotStart:
    """Return the error to raise where the system refuses an address; it says what to do."""
    help_text = _HELP.get(error.errno or 0, "")
    return CannotStart(f"cannot listen on {address}: {error.strerror or error}{help_text}")
