"""Where the HTTP server listens: on a TCP address, or on a Unix socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Protocol

from federation.config.types import Address, parse_address
from federation.server.addresses import listen, resolve
from federation.server.passed_sockets import PassedSockets
from federation.server.unix_socket import listen_unix

OWN_MODE = 0o600  # of the socket of one process
SHARED_MODE = 0o660  # of the socket that the configuration names


class HttpPlace(Protocol):
    """Opens the sockets of one place."""

    async def open(self, passed: PassedSockets | None) -> list[socket.socket]:
        """Return listening sockets; the caller closes them. Raises CannotStart."""
        ...

    def close(self) -> None:
        """Clean up after the sockets were closed."""
        ...


class TcpPlace:
    """host:port; all addresses of the host."""

    def __init__(self, address: str) -> None:
        self.address: Address = parse_address(address)  # once open, with the real port

    def __str__(self) -> str:
        return str(self.address)

    async def open(self, passed: PassedSockets | None) -> list[socket.socket]:
        """See HttpPlace. The service manager's sockets on this port are taken instead."""
        found = passed.take(self.address) if passed is not None else []
        try:
            for host in [] if found else await resolve(self.address):
                found.append(listen(Address(host, self.address.port)))
                self.address = self.address._replace(port=found[-1].getsockname()[1])
        except BaseException:
            for each in found:
                each.close()
            raise
        return found

    def close(self) -> None:
        """See HttpPlace."""


class UnixPlace:
    """A Unix socket."""

    def __init__(self, path: Path, mode: int) -> None:
        """mode: its permissions; connecting needs the right to write."""
        self.path = path
        self._mode = mode

    def __str__(self) -> str:
        return f"unix:{self.path}"

    async def open(self, passed: PassedSockets | None) -> list[socket.socket]:  # noqa: ARG002
        """See HttpPlace."""
        return [await asyncio.to_thread(listen_unix, self.path, self._mode)]

    def close(self) -> None:
        """See HttpPlace."""
        self.path.unlink(missing_ok=True)
