"""Listening sockets that the service manager opened before this process began (sd_listen_fds).

They are matched with the configured addresses by their port. One that is no listener's is an error:
the service manager would keep it open, and clients that connect to it would wait for ever.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from federation.config.types import Address
from federation.core.errors import CannotStart

_FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class PassedSockets:
    """What was passed; each is taken by one listener."""

    def __init__(self, sockets: list[tuple[str, socket.socket]] | None = None) -> None:
        """Take pairs of a name, for messages, and a listening socket."""
        self._left = list(sockets or [])

    def __repr__(self) -> str:
        return f"<PassedSockets {', '.join(_shown(*each) for each in self._left) or 'none'}>"

    def take(self, address: Address) -> list[socket.socket]:
        """Return those that listen on this port, none for port 0; the caller owns them."""
        # By port alone: units may name the address in another form than the configuration.
        mine = [s for _, s in self._left if s.getsockname()[1] == address.port and address.port]
        self._left = [each for each in self._left if each[1] not in mine]
        return mine

    def check_all_taken(self) -> None:
        """Raise CannotStart if one is no listener's; close it first."""
        if not self._left:
            return
        shown = ", ".join(_shown(*each) for each in self._left)
        self.close()
        raise CannotStart(
            f"the service manager passed {shown}, which no listener of the configuration has as "
            "its port"
        )

    def close(self) -> None:
        """Close this process's copies of those that nobody took."""
        for _, each in self._left:
            each.close()
        self._left = []


def passed_sockets(environment: MutableMapping[str, str], pid: int) -> PassedSockets:
    """Return what was passed to this process, and take the variables out of the environment.

    Raises CannotStart for anything but TCP sockets that listen.
    """
    # Taken out, or a program that this node starts would take the descriptors for its own.
    values = [environment.pop(name, "") for name in _VARIABLES]
    for_pid, count, names = values
    # The variables may have been left in the environment for another process (sd_listen_fds(3)).
    if not count or for_pid != str(pid):
        return PassedSockets()
    if not count.isdecimal():
        raise CannotStart(f"LISTEN_FDS is {count!r}, not a number")
    named = names.split(":") if names else []
    found = []
    for at in range(int(count)):
        name = named[at] if at < len(named) else f"socket {at + 1}"
        found.append((name, _adopt(_FIRST + at, name)))
    return PassedSockets(found)


def _adopt(number: int, name: str) -> socket.socket:
    try:
        # A program that this node starts must not keep the port open.
        os.set_inheritable(number, False)
        found = socket.socket(fileno=number)
    except OSError as error:
        raise CannotStart(f"{name} (descriptor {number}): {error.strerror}") from None
    is_tcp = found.family in {socket.AF_INET, socket.AF_INET6} and found.type & socket.SOCK_STREAM
    if not is_tcp or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise CannotStart(f"{name} (descriptor {number}) is not a TCP socket that listens")
    found.setblocking(False)
    return found


def _shown(name: str, passed: socket.socket) -> str:
    host, port = passed.getsockname()[:2]
    return f"{name} ({Address(host, port)})"
