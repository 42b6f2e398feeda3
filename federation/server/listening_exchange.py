"""Puts a listening socket that was opened elsewhere in the place of one that gRPC opened.

gRPC's Python interface cannot be given a socket. It does accept on the descriptor it has, whatever
that stands for, once its poller watches it: so the passed socket takes over gRPC's descriptor and
its place in gRPC's epoll instance, which the kernel describes in /proc. Before gRPC ends, the
exchange is undone, because gRPC shuts its listening sockets down, which would reach the service
manager's. Whatever does not look as expected is an error before anything is served.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from federation.core.errors import CannotStart

_ADD, _DELETE = 1, 2  # EPOLL_CTL_ADD, EPOLL_CTL_DEL
_WATCHED = re.compile(r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)\s+data:\s*([0-9a-f]+)")
_OURS = Path("/proc/self")
_LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1")  # gRPC's sockets are IPv6 ones where it can


class _Event(ctypes.Structure):
    _pack_ = 1  # as the kernel has it on x86-64
    _layout_ = "ms"
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


class _AlignedEvent(ctypes.Structure):
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


class _Watch(NamedTuple):
    """How an epoll instance watches a descriptor."""

    epoll: int
    events: int
    data: int


class Exchange:
    """One exchange; undo() once."""

    def __init__(self, passed: socket.socket, port: int) -> None:
        """Have gRPC, which listens on this port of loopback, accept on the passed socket instead.

        Raises CannotStart.
        """
        self._number = _listener_on(port)
        watches = list(_watches(self._number))
        # With another number of pollers gRPC works in a way that the steps below do not know.
        if len(watches) != 1:
            raise CannotStart(
                "this gRPC cannot take a socket of the service manager's "
                f"({len(watches)} pollers watch its own); run without socket activation"
            )
        (self._watch,) = watches
        self._own = os.dup(self._number)
        _control(self._watch, _DELETE, self._number)
        # The kernel watches open files, not numbers, so the number is taken out before and put in
        # again.
        os.dup2(passed.fileno(), self._number, inheritable=False)
        _control(self._watch, _ADD, self._number)
        passed.close()  # gRPC's descriptor stands for it now

    def __repr__(self) -> str:
        return f"<Exchange at descriptor {self._number}>"

    def undo(self) -> None:
        """Give gRPC its own socket back; who connects from now on waits for the next process."""
        _control(self._watch, _DELETE, self._number)
        os.dup2(self._own, self._number, inheritable=False)
        _control(self._watch, _ADD, self._number)
        os.close(self._own)


def _listener_on(port: int) -> int:
    """Return the descriptor of the socket that listens on this port of loopback."""
    found = [number for number in _descriptors("socket:") if _listens_on(number, port)]
    if len(found) != 1:
        raise CannotStart(f"{len(found)} sockets of this process listen on port {port}, not one")
    return found[0]


def _listens_on(number: int, port: int) -> bool:
    with socket.socket(fileno=os.dup(number)) as copy:
        if copy.family not in {socket.AF_INET, socket.AF_INET6}:
            return False
        if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        host, found = copy.getsockname()[:2]
        return found == port and host in _LOOPBACK


def _watches(number: int) -> Iterator[_Watch]:
    for epoll in _descriptors("anon_inode:[eventpoll]"):
        text = (_OURS / "fdinfo" / str(epoll)).read_text()
        for watched, events, data in _WATCHED.findall(text):
            if int(watched) == number:
                yield _Watch(epoll, int(events, 16), int(data, 16))


def _descriptors(kind: str) -> Iterator[int]:
    for path in (_OURS / "fd").iterdir():
        try:
            if str(path.readlink()).startswith(kind):
                yield int(path.name)
        except FileNotFoundError:  # the one that listed them, or one just closed
            continue


def _control(watch: _Watch, operation: int, number: int) -> None:
    kind = _Event if os.uname().machine == "x86_64" else _AlignedEvent
    event = kind(watch.events, watch.data)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.epoll_ctl(watch.epoll, operation, number, ctypes.byref(event)) != 0:
        raise CannotStart(f"epoll_ctl: {os.strerror(ctypes.get_errno())}")
