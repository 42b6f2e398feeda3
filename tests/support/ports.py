"""Ports for programs that cannot be told to take any that is free."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """Give ports of 127.0.0.1 that nobody else is given until the end of the block.

    Sockets that do not listen hold them. A program that sets SO_REUSEADDR, as servers do, may
    listen on such a port all the same, while Linux gives it to nobody who asks for any port.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in sockets]
