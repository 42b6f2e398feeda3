"""buildbox-casd as a process of the test's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.clients.tools import tool
from tests.process_client import Client


@contextmanager
def casd(folder: Path, *options: str, instance: str = "") -> Iterator[Client]:
    """Run a casd with an empty store in folder, and give a client of it.

    It listens on a socket in the file system, so that no port has to be guessed.
    """
    folder.mkdir(parents=True)
    address = f"unix:{folder / 'socket'}"
    # The kernel ends it if the test process dies, so that nothing is left behind.
    guard = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*guard, tool("buildbox-casd"), "--bind", address, *options, str(folder / "store")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with Client(address, instance) as client:
            try:
                grpc.channel_ready_future(client.channel).result(timeout=20)
            except grpc.FutureTimeoutError:
                said = (folder / "log").read_text(errors="replace")
                raise AssertionError(f"casd did not come up:\n{said}") from None
            yield client
    finally:
        process.kill()
        process.wait()
