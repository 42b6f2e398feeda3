"""buildbox-casd as a process of the test's own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.clients.tools import tool
from tests.support.guard import guarded
from tests.support.process_client import Client


@contextmanager
def casd(
    folder: Path, *options: str, instance: str = "", address: str | None = None
) -> Iterator[Client]:
    """Run a casd with an empty store in folder, and give a client of it.

    Without an address it listens on a socket in the file system, so that no port has to be guessed.
    """
    folder.mkdir(parents=True)
    address = address or f"unix:{folder / 'socket'}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            guarded([tool("buildbox-casd"), "--bind", address, *options, str(folder / "store")]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with Client(address, instance) as client:
            try:
                grpc.channel_ready_future(client.channel).result(timeout=60)
            except grpc.FutureTimeoutError:
                said = (folder / "log").read_text(errors="replace")
                raise AssertionError(f"casd did not come up:\n{said}") from None
            yield client
    finally:
        process.kill()
        process.wait()


@contextmanager
def free_address() -> Iterator[str]:
    """Give host:port that nobody else is given meanwhile, and that casd can listen on.

    Held by a socket that does not listen: gRPC's C++ servers share a port with it, and calls
    arrive at them alone.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*held.getsockname())
