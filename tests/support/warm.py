"""Nodes from a process that has the program imported already: a start costs a fork, not a second.

Most of the CPU of a test run went into importing the same modules for each of a thousand nodes.
A `Warm` has one helper for this test process; the helper imports what a node, or what a command
needs, stays single-threaded, and forks for each. What it forks is a process like any other: it has
its own session, files and environment, runs the same command line, and dies with whoever started
it.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, TypedDict

_PR_SET_PDEATHSIG: Final = 1
_REQUEST_MAX_BYTES: Final = 2**20


class _Request(TypedDict):
    entry: str
    args: list[str]
    environment: dict[str, str]
    folder: str


class WarmProcess:
    """A forked node or command, with what is used here of subprocess.Popen."""

    def __init__(self, told: int) -> None:
        """Read the first line that the process wrote to told, a pipe: its process id."""
        self._told = os.fdopen(told, "rb", buffering=0)
        line = self._told.readline()
        assert line, "the helper that forks nodes has ended"
        self.pid = int(line)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code (minus a signal), None while it runs."""
        return self._look(0)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        code = self._look(timeout_s)
        if code is None:
            raise subprocess.TimeoutExpired("federation", timeout_s)
        return code

    def _look(self, timeout_s: float) -> int | None:
        if self.returncode is None:
            look = select.poll()  # select() takes no descriptor above 1024
            look.register(self._told, select.POLLIN)
            if look.poll(timeout_s * 1000):
                line = self._told.readline()
                self._told.close()
                assert line, "the helper that forks nodes has ended"
                self.returncode = int(line)
        return self.returncode


FEDERATION: Final = "federation.cli:main"
SHAKING: Final = "FEDERATION_TEST_SHAKING"  # see tests/support/shaking.py


class Warm:
    """A helper of this process, started with the first node or command."""

    def __init__(self, imported_for: str) -> None:
        """Start nothing yet. imported_for: the command as which the helper imports the program."""
        self._imported_for = imported_for
        self._starting = threading.Lock()
        self._helper: subprocess.Popen[bytes] | None = None
        self._asking, self._asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def start(
        self,
        args: Sequence[str],
        *,
        environment: dict[str, str],
        out: int,
        err: int,
        entry: str = FEDERATION,
    ) -> WarmProcess:
        """Run `federation *args` with these descriptors as standard output and standard error.

        entry: what to call in its place, as module:function.
        """
        with self._starting:
            if self._helper is None:
                self._helper = self._start_helper(environment)
        request: _Request = {
            "entry": entry,
            "args": list(args),
            "environment": environment,
            "folder": os.getcwd(),  # noqa: PTH109
        }
        told, tells = os.pipe()
        try:
            socket.send_fds(self._asking, [json.dumps(request).encode()], [out, err, tells])
        finally:
            os.close(tells)
        return WarmProcess(told)

    def _start_helper(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._asked as asked:
            atexit.register(self._end)
            # In a session of its own, so that Ctrl-C at the terminal is for the test run alone.
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.support.warm"),
                    *(str(asked.fileno()), self._imported_for),
                ],
                pass_fds=[asked.fileno()],
                env=environment,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )

    def _end(self) -> None:
        self._asking.close()
        if self._helper is not None:
            self._helper.wait(10)


warm_nodes: Final = Warm("serve")
warm_commands: Final = Warm("status")


# Inside the helper

# By name: an import that nothing seems to use is removed by the next tool that tidies imports.
_PRELOADED: Final = {
    "serve": (
        "federation.cli.serve",
        "federation.cli.bst_artifact_server",
        "federation.server.run",
        "federation.server.run_workers",
        # A node imports these when it needs them, which nodes of tests do.
        "federation.access.guarded",
        "federation.config.file",
        *("federation.server.listener", "federation.services.grpc_calls"),
        *("federation.server.socket_listener", "federation.transport.server"),
        "federation.http_cache.server",
        "federation.replication.assembly",
        "federation.server.http.bounded_server",
        "federation.storage.storage",
        *("federation.upstream.connected", "federation.upstream.healer"),
    ),
    "status": (
        "federation.cli.status",
        "federation.cli.verify",
        "federation.config.file",
        "federation.storage.admin.operations",
        "federation.storage.storage",
    ),
}


def preload(command: str) -> None:
    """Import what it needs, and keep it out of the garbage collections of every child."""
    for name in _PRELOADED[command]:
        import_module(name)
    # Not above: what it imports has to find what federation.cli has set before it.
    from federation.config.model import Config

    Config()  # builds the validators of all sections, as the first use does
    gc.collect()
    gc.freeze()


class _Forking:
    """Forks for every request until the other end of the socket is closed."""

    def __init__(self, asked: socket.socket, set_by_import: dict[str, str]) -> None:
        self._asked = asked
        self._set_by_import = set_by_import
        self._tells: dict[int, int] = {}  # process id -> pipe
        self._ended, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._ended, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wake = wake

    def run(self) -> Callable[[], None] | None:
        """Return in the helper with None at its end, and in each child with what it has to do."""
        while True:
            watched: list[socket.socket | int] = [self._asked, self._ended]
            readable, _, _ = select.select(watched, [], [])
            if self._ended in readable:
                os.read(self._ended, 4096)
                self._tell_of_ends()
            if self._asked in readable:
                request, fds, _, _ = socket.recv_fds(self._asked, _REQUEST_MAX_BYTES, 3)
                if not request:
                    return None
                out, err, tells = fds
                pid = os.fork()
                if pid == 0:
                    return self._child(json.loads(request), out, err, tells)
                os.close(out)
                os.close(err)
                self._tells[pid] = tells

    def _tell_of_ends(self) -> None:
        while self._tells:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            tells = self._tells.pop(pid)
            os.write(tells, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(tells)

    def _child(self, request: _Request, out: int, err: int, tells: int) -> Callable[[], None]:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._asked.close()
        null = os.open(os.devnull, os.O_RDONLY)
        for number, source in enumerate((null, out, err)):
            os.dup2(source, number)
        for number in (null, out, err, self._ended, self._wake, *self._tells.values()):
            os.close(number)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ.update(self._set_by_import)
        os.chdir(request["folder"])
        sys.argv = ["federation", *request["args"]]
        os.write(tells, b"%d\n" % os.getpid())
        os.close(tells)
        module, function = request["entry"].split(":")
        entry: Callable[..., None] = getattr(import_module(module), function)
        if request["entry"] == FEDERATION:
            return lambda: entry(prog_name="federation")
        return entry


def _main() -> None:
    asked, command = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    sys.argv = ["federation", command]  # what federation.cli looks at when it is imported
    before = dict(os.environ)
    preload(command)
    if SHAKING in os.environ:
        import_module("tests.support.shaking").install()
    changed = {key: value for key, value in os.environ.items() if before.get(key) != value}
    todo = _Forking(asked, changed).run()
    if todo is not None:
        _run(todo)


def _run(todo: Callable[[], None]) -> None:
    """Run it, and end as Python does, but for taking down every module and object.

    That touches each page which is shared with the helper: as much CPU as a start.
    """
    code: object = None
    try:
        todo()
    except SystemExit as error:
        code = error.code
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as each end does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _main()
