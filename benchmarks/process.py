"""One server process: how it is started, found, watched and stopped.

Each has its own data directory. Rows see nothing but an address.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

import grpc

from benchmarks import procfs
from tests.support.guard import guarded

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 60.0
_CAPABILITIES = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities"


class ServerFailedError(Exception):
    """A server did not start or did not answer."""


class Server(ABC):
    """One server program over one data directory."""

    name: str
    durability: str  # "synced": what was acknowledged survives a power cut

    def __init__(self, home: Path) -> None:
        self.home = home / self.name
        self.home.mkdir(parents=True, exist_ok=True)
        self.data_dir = self.home / "data"
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return what to execute; writes configuration files and chooses a port as needed."""

    def find_address(self) -> str | None:
        """Return host:port, or None as long as the server has not said it."""
        return self.address

    @property
    def pid(self) -> int:
        """The process that was started."""
        if self._process is None:
            raise ServerFailedError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> float:
        """Start the server; return the seconds until it answered its first call."""
        command = self.command()
        began = time.perf_counter()
        with (self.home / "log").open("ab") as log:
            # As installed: with bytecode, whatever this shell says. Else each start compiles all.
            env = {key: it for key, it in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
            self._process = subprocess.Popen(guarded(command), stdout=log, stderr=log, env=env)
        while time.perf_counter() - began < _START_TIMEOUT_S:
            if self._process.poll() is not None:
                break
            self.address = self.find_address() or ""
            if self.address and self._accepts() and self._answers():
                return time.perf_counter() - began
            time.sleep(0.002)
        code = self._process.poll()
        self.stop()
        said = (self.home / "log").read_text(errors="replace")[-2000:]
        raise ServerFailedError(f"{self.name} did not start (exit status {code}):\n{said}")

    def stop(self) -> None:
        """End the server and wait until it is gone; twice does no harm."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def cpu_s(self) -> float:
        """CPU seconds used since the start, children included."""
        return procfs.cpu_s(self.pid)

    def drop_page_cache(self) -> None:
        """Make the next read of anything under the data directory go to the disk."""
        os.sync()
        for path in self.data_dir.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)

    def _accepts(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    def _answers(self) -> bool:
        with grpc.insecure_channel(self.address) as channel:
            try:
                channel.unary_unary(_CAPABILITIES, None, None)(b"", timeout=_START_TIMEOUT_S)
            except grpc.RpcError:
                return False
        return True
