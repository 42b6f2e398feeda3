"""Sockets of the service manager: taken over, given back, kept over a restart, never forgotten."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.config.types import Address
from federation.core.digest import digest_of
from federation.core.errors import CannotStart
from federation.server.passed_sockets import PassedSockets, passed_sockets
from tests.http_cache.http_client import HttpClient
from tests.support.certificates import self_signed
from tests.support.process import Node
from tests.support.process_client import Client

# What a service manager does between fork and exec.
_PASS = (
    "import os, sys\n"
    "names, numbers = sys.argv[1], [int(n) for n in sys.argv[2].split(',')]\n"
    "held = [os.dup2(n, 100 + at) for at, n in enumerate(numbers)]\n"
    "[os.dup2(n, 3 + at) for at, n in enumerate(held)]\n"
    "[os.close(n) for n in held]\n"
    "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': str(len(held)),\n"
    "               'LISTEN_FDNAMES': names}\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


class Manager:
    """Holds listening sockets, as systemd does, and gives them to nodes."""

    def __init__(self, count: int) -> None:
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        for each in self.sockets:
            each.set_inheritable(True)

    @property
    def addresses(self) -> list[str]:
        return ["{}:{}".format(*each.getsockname()) for each in self.sockets]

    def node(self, data_dir: Path, **settings: Any) -> Node:
        numbers = ",".join(str(each.fileno()) for each in self.sockets)
        names = ":".join(f"name{at}" for at in range(len(self.sockets)))
        prefix = [sys.executable, "-c", _PASS, names, numbers]
        return Node(data_dir, settings, prefix=prefix, pass_fds=[s.fileno() for s in self.sockets])

    def still_listens(self) -> bool:
        return all(
            each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in self.sockets
        )

    def close(self) -> None:
        for each in self.sockets:
            each.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager(2)
    yield manager
    manager.close()


def both(manager: Manager) -> dict[str, Any]:
    grpc, http = manager.addresses
    return {"listeners": [{"address": grpc, "push": True}], "http": {"address": http}}


def test_passed_sockets_are_served_on(tmp_path: Path, manager: Manager) -> None:
    with manager.node(tmp_path / "data", **both(manager)).start() as node:
        assert node.addresses == manager.addresses[:1]
        with Client(manager.addresses[0]) as client:
            client.write(b"through a passed socket" * 1000)
            assert client.read(digest_of(b"through a passed socket" * 1000))
        assert node.http_get("/readyz")[0] == 200
        for _ in range(50):
            with Client(manager.addresses[0]) as client:
                client.capabilities()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_who_comes_while_the_node_restarts_waits(
    tmp_path: Path, manager: Manager, how: str
) -> None:
    with manager.node(tmp_path / "data", **both(manager)).start() as node:
        with Client(manager.addresses[0]) as client:
            client.write(b"kept")
        if how == "stop":
            assert node.stop() == 0
        else:
            node.kill()
        with Client(manager.addresses[0]) as client:
            waiting = client.capabilities_stub.GetCapabilities.future(
                reapi.GetCapabilitiesRequest(), timeout=60
            )
            with pytest.raises(grpc.FutureTimeoutError):
                waiting.result(timeout=0.3)
            node.start()
            assert waiting.result().cache_capabilities.digest_functions
            assert client.read(digest_of(b"kept")) == b"kept"


def test_a_clean_end_leaves_the_managers_sockets_listening(
    tmp_path: Path, manager: Manager
) -> None:
    with manager.node(tmp_path / "data", **both(manager)).start() as node:
        assert node.stop() == 0
    assert manager.still_listens()
    socket.create_connection(manager.sockets[0].getsockname()).close()


def test_tls_is_served_on_a_passed_socket(tmp_path: Path, manager: Manager) -> None:
    files = self_signed(tmp_path)
    settings = both(manager)
    tls = {"server-cert": str(files.certificate), "server-key": str(files.key)}
    settings["listeners"] = [{"address": manager.addresses[0], "push": True, "tls": tls}]
    credentials = grpc.ssl_channel_credentials(files.certificate.read_bytes())
    with (
        manager.node(tmp_path / "data", **settings).start(),
        Client(manager.addresses[0], credentials=credentials) as client,
    ):
        assert client.capabilities().cache_capabilities.digest_functions


def test_an_http_cache_is_served_on_a_passed_socket_and_after_a_restart(
    tmp_path: Path, manager: Manager
) -> None:
    grpc_address, http_address = manager.addresses
    http = {"address": http_address, "protocol": "http", "push": True}
    settings = {"listeners": [{"address": grpc_address}, http], "http": {"address": None}}
    node = manager.node(tmp_path / "data", **settings)
    client = HttpClient(http_address)
    with node.start():
        assert client.ask("PUT", "/kv/main/key", b"value").status == 200
        assert node.stop() == 0
        assert manager.still_listens()
        node.start()
        assert client.ask("GET", "/kv/main/key").body == b"value"


def test_a_listener_without_a_passed_socket_is_bound_as_ever(
    tmp_path: Path, manager: Manager
) -> None:
    settings = both(manager)
    settings["listeners"] = [{"address": manager.addresses[0]}, {"address": "127.0.0.1:0"}]
    with manager.node(tmp_path / "data", **settings).start() as node:
        for address in node.addresses:
            with Client(address) as client:
                client.capabilities()


def test_a_socket_that_is_no_listeners_refuses_the_start(tmp_path: Path, manager: Manager) -> None:
    settings = {"listeners": [{"address": manager.addresses[0]}], "http": {"address": None}}
    with manager.node(tmp_path / "data", **settings).launch() as node:
        assert node.wait_exit() == 3
    assert f"passed name1 ({manager.addresses[1]}), which no listener" in node.log
    assert manager.still_listens()


def environment(**over: str) -> dict[str, str]:
    values = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "grpc"}
    return {**values, **over}


@pytest.mark.parametrize(
    "variables",
    [{}, environment(LISTEN_PID="1"), environment(LISTEN_FDS=""), environment(LISTEN_FDS="0")],
)
def test_nothing_is_taken_that_is_not_meant_for_this_process(variables: dict[str, str]) -> None:
    left = {**variables, "PATH": "/bin"}
    assert repr(passed_sockets(left, os.getpid())) == "<PassedSockets none>"
    assert left == {"PATH": "/bin"}


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(CannotStart, match="LISTEN_FDS is 'x', not a number"):
        passed_sockets(environment(LISTEN_FDS="x"), os.getpid())


def test_what_is_no_listening_socket_is_refused() -> None:
    script = (
        "import os, socket, sys\n"
        "from federation.server.passed_sockets import passed_sockets\n"
        "os.dup2(os.open(sys.argv[1], os.O_RDONLY), 3) if sys.argv[1] else"
        " os.dup2(socket.socket().detach(), 3)\n"
        "env = {'LISTEN_PID': '7', 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'grpc'}\n"
        "print(passed_sockets(env, 7))\n"
    )
    for name in (os.devnull, ""):
        command = [sys.executable, "-c", script, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "CannotStart: grpc (descriptor 3)" in done.stderr


def test_each_is_taken_once_and_by_its_port(manager: Manager) -> None:
    passed = PassedSockets([("a", manager.sockets[0]), ("b", manager.sockets[1])])
    host, port = manager.sockets[1].getsockname()
    assert passed.take(Address(host, 0)) == []
    assert passed.take(Address("0.0.0.0", port)) == [manager.sockets[1]]
    assert passed.take(Address(host, port)) == []
    with pytest.raises(CannotStart, match="a \\(127"):
        passed.check_all_taken()
