"""Connections that are opened and left: what one address may take of a listener."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path

from tests.attacks.harness import ATTACKER, Attacked
from tests.support.polling import wait_until
from tests.transport.wire import PREFACE

CONNECTIONS = 40


def connect(address: str, source: str, count: int, stack: ExitStack) -> list[socket.socket]:
    """Open so many connections that say nothing; a server may close them as they are opened."""
    host, _, port = address.rpartition(":")
    opened = []
    for _ in range(count):
        try:
            one = socket.create_connection((host, int(port)), 10, source_address=(source, 0))
        except (ConnectionResetError, BrokenPipeError):  # closed before connect() has looked
            one = socket.socket()
            one.close()
        opened.append(stack.enter_context(one))
    return opened


def closed(opened: list[socket.socket]) -> int:
    """How many of them the node has closed."""
    count = 0
    for one in opened:
        try:
            one.setblocking(False)
            while one.recv(4096):
                pass
            count += 1
        except BlockingIOError:
            pass
        except OSError:
            count += 1
    return count


def test_one_address_leaves_connections_for_others(tmp_path: Path) -> None:
    limits = {"connections": CONNECTIONS}
    with (
        Attacked(tmp_path, limits=limits) as node,
        node.watched() as seen,
        ExitStack() as stack,
    ):
        opened = connect(node.node.address, ATTACKER, 2 * CONNECTIONS, stack)
        wait_until(lambda: closed(opened) >= len(opened) - CONNECTIONS // 2, "half are closed")
        node.check_limit_hit("connections-per-address")
        seen.judge()
        with node.client() as another:  # a new connection finds room, too
            another.capabilities()


def test_a_number_for_each_address_counts(tmp_path: Path) -> None:
    limits = {"connections": CONNECTIONS, "connections-per-address": 5}
    with (
        Attacked(tmp_path, limits=limits) as node,
        node.watched() as seen,
        ExitStack() as stack,
    ):
        opened = connect(node.node.address, ATTACKER, CONNECTIONS, stack)
        wait_until(lambda: closed(opened) >= CONNECTIONS - 5, "all but five are closed")
        assert closed(opened[:3]) == 0  # the youngest are
        seen.judge()


HALVES = {
    "HTTP/2": (b"", PREFACE[:10], PREFACE, PREFACE + bytes(5)),
    "TLS": (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "HTTP": (b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-Slow: ",),
}


def begin(address: str, kind: str, count: int, stack: ExitStack) -> list[socket.socket]:
    """Open connections that send no more than a part of what they have to begin with."""
    opened = connect(address, ATTACKER, count, stack)
    parts = cycle(HALVES[kind])
    for one in opened:
        with suppress(OSError):  # the node has closed it already
            one.setblocking(True)
            one.sendall(next(parts))
    return opened


def test_connections_that_never_begin_are_closed_and_deny_nobody(tmp_path: Path) -> None:
    """Of all kinds at once: the time that each is given passes for all of them together."""
    settings = {"transport": "http2"}
    for name in ("plain", "tls"):
        (tmp_path / name).mkdir()
    with (
        Attacked(tmp_path / "plain", open_to_all=True, settings=settings) as plain,
        Attacked(tmp_path / "tls", settings=settings) as tls,
        plain.watched() as seen_plain,
        tls.watched() as seen_tls,
        ExitStack() as stack,
    ):
        opened = {
            "HTTP/2": begin(plain.node.address, "HTTP/2", 300, stack),
            "TLS": begin(tls.node.address, "TLS", 300, stack),
            "HTTP": begin(plain.node.http, "HTTP", 150, stack),
        }
        assert plain.node.http_get("/readyz")[0] == 200
        plain.check_limit_hit("http.connections")
        (other,) = connect(plain.node.http, "127.0.0.3", 1, stack)
        other.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert other.recv(4096).startswith(b"HTTP/1.1 200")
        seen_plain.judge()
        seen_tls.judge()
        for kind, held in opened.items():
            wait_until(lambda held=held: closed(held) == len(held), f"all of {kind} are closed")  # type: ignore[misc]
        plain.check_limit_hit("connection.handshake")
        tls.check_limit_hit("connection.handshake")
        seen_plain.judge()
