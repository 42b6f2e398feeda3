"""The TCP connections of this process, as its own descriptors and the kernel show them.

gRPC's Python interface shows neither connections nor what it holds of each, and it cannot end a
call whose answer nobody takes. But its sockets are descriptors of this process, so they can be
inspected without gRPC. Nothing is read from them or written to them.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from federation.access.incoming_call import PeerAddress, parse_peer, plain_host

_INFO_BYTES = 136
_RECEIVED_AT = 128  # tcpi_bytes_received in struct tcp_info (Linux 4.1)
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time: close sends RST


class TcpAddress(NamedTuple):
    """One end of a connection; an IPv4 address in IPv6 form is shown as IPv4."""

    host: str
    port: int


class TcpConnection(NamedTuple):
    """One accepted connection."""

    number: int  # the descriptor
    peer: TcpAddress
    local_port: int


def connections(ports: Collection[int] | None = None) -> Iterator[TcpConnection]:
    """Yield the connections of this process that came to one of these ports; None: all."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names only
        if (found := _look(int(name))) is not None and (ports is None or found.local_port in ports):
            yield found


class ProcessConnections:
    """Connections, see services/transport.py, as the descriptors of this process show them."""

    def received_from(self, peers: Collection[str]) -> dict[str, int]:
        """See Connections."""
        names = {_end_of(parse_peer(peer)): peer for peer in peers}
        return {
            names[each.peer]: received_bytes(each) for each in connections() if each.peer in names
        }

    def break_off(self, peer: str) -> None:
        """See Connections."""
        wanted = parse_peer(peer)
        if not wanted.port:
            return
        for each in connections():
            if each.peer == _end_of(wanted) and break_off(each):
                return


def _end_of(peer: PeerAddress) -> TcpAddress:
    return TcpAddress(peer.host, peer.port)


def break_off(connection: TcpConnection) -> bool:
    """Reset a connection: gRPC then releases all that it holds for it.

    False: the descriptor refers to something else by now.
    """
    try:
        own = socket.socket(fileno=os.dup(connection.number))
    except OSError:
        return False
    with own:  # the duplicate keeps referring to this socket
        try:
            # The number may belong to a newer connection by now.
            if _endpoint(*own.getpeername()[:2]) != connection.peer:
                return False
            # A reset: a plain end would wait until what is queued was taken, which nobody does.
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            # gRPC still has its descriptor, so closing this one alone would end nothing.
            own.shutdown(socket.SHUT_RDWR)
        except (OSError, TypeError, ValueError):
            return False
    return True


def received_bytes(connection: TcpConnection) -> int:
    """Return what has been read from this connection since it began; 0: it is gone."""
    info = b""
    with suppress(OSError), _borrowed(connection.number) as borrowed:
        info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        waiting = array.array("i", [0])
        fcntl.ioctl(borrowed.fileno(), termios.FIONREAD, waiting)
    if len(info) < _INFO_BYTES:
        return 0
    (received,) = struct.unpack_from("=Q", info, _RECEIVED_AT)
    # The kernel counts what it holds, too; that has not reached gRPC's memory yet.
    return max(0, int(received) - waiting[0])


@contextmanager
def _borrowed(number: int) -> Iterator[socket.socket]:
    """Use a descriptor as a socket without closing it. Raises OSError if it is none."""
    # With a family given, the kernel is not asked; IPv6 has room for addresses of both.
    borrowed = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, fileno=number)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _look(number: int) -> TcpConnection | None:
    try:
        with _borrowed(number) as borrowed:
            peer, own = borrowed.getpeername(), borrowed.getsockname()
            return TcpConnection(number, _endpoint(*peer[:2]), int(own[1]))
    except (OSError, TypeError, ValueError, IndexError):
        return None  # not a connected TCP socket


def _endpoint(host: str, port: int) -> TcpAddress:
    return TcpAddress(plain_host(host), port)
