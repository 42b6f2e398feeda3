"""The listeners' ports, reserved for the workers.

The parent binds each address with SO_REUSEPORT and never listens on it: connections go to the
workers, which bind the same. So a port that was picked (port 0) is the same for all of them, and
stays taken while one is being restarted.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from federation.config.types import Address, parse_address
from federation.server.addresses import cannot_listen, listen, resolve
from federation.server.passed_sockets import PassedSockets


@dataclass(slots=True)
class KeptPorts:
    """Reserves the ports; close it last."""

    addresses: list[Address] = field(default_factory=list)  # of each listener, with real ports
    passed: list[socket.socket] = field(default_factory=list)  # the service manager's, for workers
    _bound: list[socket.socket] = field(default_factory=list)

    async def take(self, listeners: Sequence[str], passed: PassedSockets) -> None:
        """Take every address of every listener; raises CannotStart, and then keeps none."""
        try:
            for text in listeners:
                address = parse_address(text)
                if sockets := passed.take(address):
                    self.passed += sockets
                else:
                    for host in await resolve(address):
                        address = address._replace(port=self._keep(Address(host, address.port)))
                self.addresses.append(address)
        except BaseException:
            self.close()
            raise

    def _keep(self, wanted: Address) -> int:
        # SO_REUSEPORT would share a port with another program of this user that does the same,
        # such as a second node by mistake. A socket without it is refused then.
        with listen(wanted) as alone:
            port: int = alone.getsockname()[1]
        family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
        keeper = socket.socket(family, socket.SOCK_STREAM)
        self._bound.append(keeper)
        try:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # On every socket of the port, or the kernel refuses those of the workers.
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                only_v6 = not wanted.is_wildcard
                keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
            keeper.bind((wanted.host, port))
        except OSError as error:
            raise cannot_listen(wanted._replace(port=port), error) from None
        return port

    def close(self) -> None:
        """Let go of everything."""
        for each in (*self._bound, *self.passed):
            each.close()
        self._bound, self.passed = [], []
