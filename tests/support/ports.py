"""Ports for programs that cannot be told to take any that is free."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


@contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """Give ports of 127.0.0.1 that nobody else is given until the end of the block.

    Sockets that do not listen hold them. A program that sets SO_REUSEADDR, as servers do, may
    listen on such a port all the same, while Linux gives it to nobody who asks for any port.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(_held(0)) for _ in range(count)]
        yield [each.getsockname()[1] for each in sockets]


def hold_while(owner: object, port: int) -> None:
    """Have nobody who asks for any port be given this one, until the owner is gone.

    Clients of a server that has ended find nobody there then, not the server of another test.
    """
    with suppress(OSError):  # somebody was given it in the moment between
        weakref.finalize(owner, os.close, _held(port).detach())


def _held(port: int) -> socket.socket:
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        raise
    return held
