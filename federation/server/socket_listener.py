"""One listener whose server is given sockets: its addresses or passed sockets, and its end."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from federation.config import model
from federation.config.types import Address, parse_address
from federation.server.addresses import listen, resolve
from federation.server.passed_sockets import PassedSockets


class SocketServer(Protocol):
    """What serves a protocol on listening sockets: start, stop, each once."""

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these sockets; they are the server's from now on."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; let running ones go on for grace_s at most, then end them."""
        ...


class SocketListener:
    """A ListeningServer: see there."""

    bounds_connections = True

    def __init__(
        self,
        listener: model.ListenerConfig,
        server: SocketServer,
        *,
        port: int | None = None,
        alone: bool = True,
    ) -> None:
        """Take the listener's configuration and its server. port, alone: see GrpcServer."""
        self.listener = listener
        address = parse_address(listener.address)
        # After bind, with the real port.
        self.address = address if port is None else address._replace(port=port)
        self._server = server
        self._alone = alone
        self._sockets: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<SocketListener {self.address} push={self.listener.push}>"

    async def bind(self, passed: PassedSockets | None = None) -> None:
        """Take every address that the listener's host stands for; all or CannotStart.

        passed: the service manager's sockets; those on this port are taken instead.
        """
        self._sockets = passed.take(self.address) if passed is not None else []
        if self._sockets:
            return
        for host in await resolve(self.address):
            found = listen(Address(host, self.address.port), shared=not self._alone)
            self._sockets.append(found)
            # Port 0 is now a real one: the next addresses of the host get the same.
            self.address = self.address._replace(port=found.getsockname()[1])

    async def start(self) -> None:
        """Begin to answer calls."""
        sockets, self._sockets = self._sockets, []
        await self._server.start(sockets)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; let running ones go on for grace_s at most, then end them.

        May be called instead of start, too: then the ports are free again.
        """
        for each in self._sockets:
            each.close()
        self._sockets = []
        await self._server.stop(grace_s)
