"""Connections that are opened and left: what one address may take of a listener."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from tests.attacks.harness import ATTACKER, Attacked
from tests.support.polling import wait_until

CONNECTIONS = 40


def connect(address: str, source: str, count: int, stack: ExitStack) -> list[socket.socket]:
    """Open so many connections that say nothing; a server may close them as they are opened."""
    host, _, port = address.rpartition(":")
    opened = []
    for _ in range(count):
        try:
            one = socket.create_connection((host, int(port)), 10, source_address=(source, 0))
        except ConnectionResetError:
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


def test_slow_http_connections_do_not_deny_readiness(tmp_path: Path) -> None:
    with (
        Attacked(tmp_path, open_to_all=True) as node,
        node.watched() as seen,
        ExitStack() as stack,
    ):
        opened = connect(node.node.http, ATTACKER, 150, stack)
        for one in opened:
            try:
                one.setblocking(True)
                one.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            except OSError:
                continue  # it is closed already
        assert node.node.http_get("/readyz")[0] == 200
        node.check_limit_hit("http.connections")
        others = connect(node.node.http, "127.0.0.3", 1, stack)
        others[0].sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert others[0].recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: closed(opened) == len(opened), "all are ended", timeout_s=60)
        seen.judge()
