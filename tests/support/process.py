"""Run `federation serve` as a real process, watch it from outside, and leave nothing behind.

    with serve(tmp_path / "data") as node, Client(node.address) as client:
        client.write(b"...")
        node.kill()

Blocking on purpose: the node is another process, and a test that kills it wants no event loop of
its own in the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import yaml

from federation.core.clock import SystemClock
from tests.support.guard import guarded
from tests.support.polling import wait_until
from tests.support.ports import hold_while
from tests.support.samples import Samples
from tests.support.transports import TRANSPORT
from tests.support.warm import FEDERATION, WarmProcess, warm_commands, warm_nodes

Settings = Mapping[str, Any]

_clock = SystemClock()
_LOG_SHOWN_BYTES = 6000
_LOG_PATIENCE_S = 5.0
_LOG_PAUSE_S = 0.025  # a node writes a line up to 20 ms after the one before: LogWriter
_BYTECODE = Path(__file__).parents[2] / ".pytest_cache" / "bytecode"
_SERVE = (sys.executable, "-m", "federation", "serve")
ARTIFACT_SERVER = (str(Path(sys.executable).with_name("bst-artifact-server")),)
_READ_LATE = {"NOTIFY_SOCKET", "WATCHDOG_USEC"}  # variables that no import looks at
_WARM_ENTRIES = {_SERVE: FEDERATION, ARTIFACT_SERVER: "federation.cli:artifact_server"}


def federation(
    *args: str, timeout_s: float = 60, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line to its end.

    kwargs: see subprocess.run. With any, or for `serve`, it imports the program itself.
    """
    if kwargs or args[:1] == ("serve",):
        return subprocess.run(
            [sys.executable, "-m", "federation", *args],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **{"env": environment(), **kwargs},
        )
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        process = warm_commands.start(
            args, environment=environment(), out=out.fileno(), err=err.fileno()
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for pid in _session(process.pid):
                _send(pid, signal.SIGKILL)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


def environment() -> dict[str, str]:
    """Return the variables for processes of ours, which find bytecode whatever this one was told.

    Without, each compiles the program anew: half a second of CPU.
    """
    found = dict(os.environ)
    if found.pop("PYTHONDONTWRITEBYTECODE", ""):
        found["PYTHONPYCACHEPREFIX"] = str(_BYTECODE)
    return found


def merged(base: Settings, over: Settings) -> dict[str, Any]:
    """Return base with the keys of over in it, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def configuration(data_dir: Path, over: Settings) -> dict[str, Any]:
    base: Settings = {
        "data-dir": str(data_dir),
        "transport": TRANSPORT,
        "listeners": [{"address": "127.0.0.1:0", "push": True}],
        "http": {"address": "127.0.0.1:0"},
        "log": {"level": "info", "format": "console"},
        "limits": {"drain": "5s"},
    }
    return merged(base, over)


class Node:
    """One serving process. start(), then stop() or kill(); start() again uses the same files."""

    def __init__(
        self,
        data_dir: Path,
        settings: Settings | None = None,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        program: Sequence[str] = _SERVE,
        name: str = "node",
        files_dir: Path | None = None,
        pass_fds: Sequence[int] = (),
        cold: bool = False,
    ) -> None:
        """Describe a node.

        Args:
            data_dir: its data directory.
            settings: keys of the configuration file, merged over the defaults for tests.
            prefix: a program to run it under, e.g. strace with -D; must keep the session.
            env: additional environment.
            args: arguments of `serve` instead of a configuration file; data_dir must be among them.
            program: what takes args, if not `federation serve`.
            name: tells apart the files of several nodes.
            files_dir: where <name>.yaml and <name>.log are written; default: beside data_dir.
            pass_fds: descriptors of the test that stay open in it under the same numbers.
            cold: whether it has to import the program itself, so that start_s says what a user
                waits; so it is anyhow with a prefix, with descriptors, or with variables that
                an import may look at.
        """
        self.data_dir = data_dir
        self.settings = settings or {}
        self.prefix = list(prefix)
        self.env = dict(env or {})
        self.args = args
        self.program = list(program)
        self.pass_fds = tuple(pass_fds)
        files_dir = files_dir or data_dir.parent
        self.config_path = files_dir / f"{name}.yaml"
        self.log_path = files_dir / f"{name}.log"
        self.facts: dict[str, Any] = {}
        self.start_s = 0.0
        self._cold = cold
        self._process: subprocess.Popen[bytes] | WarmProcess | None = None

    def run_program(self, program: Sequence[str], env: Mapping[str, str]) -> None:
        """From the next start on, run this in place of `federation serve`, with this added env."""
        self.program = list(program)
        self.env |= env

    def __repr__(self) -> str:
        state = f"pid {self.pid} at {self.address}" if self.facts else "not serving"
        return f"<Node {self.data_dir} {state}>"

    # Starting and ending

    def launch(self) -> Node:
        """Start the process and do not wait for it to serve."""
        assert self._process is None, f"{self!r} runs already"
        args = list(self.args) if self.args is not None else self._config_args()
        # What gRPC was told in this process is not meant for that one.
        env = {**environment(), "GRPC_VERBOSITY": "", **self.env}
        with self.log_path.open("ab") as log:
            if (entry := self._warm_entry()) is not None:
                if self.program[-1] == "serve":
                    args = ["serve", *args]
                self._process = warm_nodes.start(
                    args, environment=env, out=log.fileno(), err=log.fileno(), entry=entry
                )
            else:
                self._process = self._popen(args, env, log)
        return self

    def _warm_entry(self) -> str | None:
        """Return what to call in a process that has imported the program; None: it has to itself.

        A test may change any of these between two starts.
        """
        if self._cold or self.prefix or self.pass_fds:
            return None
        if self.program[:2] == [sys.executable, "-m"] and self.program[2].startswith("tests."):
            return f"{self.program[2]}:run"  # its variables are for that module
        if self.env.keys() - _READ_LATE:
            return None
        return _WARM_ENTRIES.get(tuple(self.program))

    def _popen(
        self, args: Sequence[str], env: Mapping[str, str], log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            guarded([*self.prefix, *self.program, *args]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            pass_fds=self.pass_fds,
        )

    def start(self, timeout_s: float = 60) -> Node:
        """Start the process and wait until every port answers; start_s says how long that took."""
        began_s = _clock.monotonic_s()
        self.launch()
        self.wait_ready(timeout_s)
        self.start_s = _clock.monotonic_s() - began_s
        return self

    def wait_ready(self, timeout_s: float = 60) -> Node:
        """Wait until the launched process has announced its listeners."""
        deadline_s = _clock.monotonic_s() + timeout_s
        while True:
            found = self._announced()
            if found:
                self.facts = found
                return self
            code = self._process.poll() if self._process else None
            if code is not None:
                self.close()
                raise AssertionError(
                    f"serve ended with {code} before it was ready\n{self.log_tail}"
                )
            if _clock.monotonic_s() > deadline_s:
                self.close()
                raise AssertionError(f"serve was not ready within {timeout_s} s\n{self.log_tail}")
            time.sleep(0.005)

    def stop(self, timeout_s: float = 60) -> int:
        """Ask for a clean end (SIGTERM) and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.signal(signal.SIGKILL)
        self.wait_exit()

    def wait_exit(self, timeout_s: float = 60) -> int:
        """Wait for the process to end by itself and return its exit code (minus a signal)."""
        assert self._process is not None, f"{self!r} was not started"
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(
                f"serve did not end within {timeout_s} s\n{self.log_tail}"
            ) from None
        self._hold_ports()
        self._forget()
        return code

    def _hold_ports(self) -> None:
        for address in (*self.facts.get("listeners", ()), self.facts.get("http") or ""):
            host, _, port = str(address).rpartition(":")
            if host == "127.0.0.1":
                hold_while(self, int(port))

    def close(self) -> None:
        """End the process and whatever it ran under, whatever state it is in."""
        if self._process is None:
            return
        for pid in _session(self._process.pid):
            _send(pid, signal.SIGKILL)
        self._process.wait(60)
        self._forget()

    def _forget(self) -> None:
        session = self._process.pid if self._process else 0
        self._process = None
        self.facts = {}
        # A tracer ends by itself once it has seen the end of the node; a worker must too.
        wait_until(lambda: not _session(session), f"processes left of {session}")

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Signals

    @property
    def pid(self) -> int:
        """The process id of the node itself, also under a prefix."""
        if self.facts:
            return int(self.facts["pid"])
        assert self._process is not None, f"{self!r} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the node's own process."""
        _send(self.pid, number)

    def pause(self) -> None:
        """Freeze the node (SIGSTOP), and wait until no thread of it can say anything any more.

        A thread that waits for the disk (D) stops before it gets back to its program.
        """
        self.signal(signal.SIGSTOP)
        wait_until(lambda: _states(self.pid) <= set("TtDZ"), f"all threads of {self!r} to stop")

    def resume(self) -> None:
        """Let a frozen node go on (SIGCONT)."""
        self.signal(signal.SIGCONT)

    # Looking at it

    @property
    def address(self) -> str:
        """host:port of the first gRPC listener."""
        return str(self.addresses[0])

    @property
    def addresses(self) -> list[str]:
        """host:port of every gRPC listener, in the order of the configuration."""
        return list(self.facts["listeners"])

    @property
    def http(self) -> str:
        """host:port of the HTTP listener."""
        return str(self.facts["http"])

    @property
    def log(self) -> str:
        """Everything that this node has written so far, over all its starts."""
        if self.running and self._process is not None:
            _let_log(self._process.pid)
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def log_tail(self) -> str:
        """The end of the log, for failure messages."""
        return f"--- {self.log_path}\n{self.log[-_LOG_SHOWN_BYTES:]}"

    def http_get(self, path: str, timeout_s: float = 60) -> tuple[int, str]:
        """Return status and body of a GET on the HTTP listener."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=timeout_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> Samples:
        """Scrape /metrics."""
        code, text = self.http_get("/metrics")
        assert code == 200, f"/metrics answered {code}: {text}"
        return Samples(text)

    def rss_bytes(self) -> int:
        """Resident memory of the node's own process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """CPU time that the node's own process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fds(self) -> int:
        """How many file descriptors the node has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names only

    def threads(self) -> int:
        """How many threads the node has."""
        return len(os.listdir(f"/proc/{self.pid}/task"))  # noqa: PTH208 - names only

    # Inside

    def write_config(self, settings: Settings) -> None:
        """Write the configuration file, with these settings in place of the node's own."""
        self.config_path.write_text(yaml.safe_dump(configuration(self.data_dir, settings)))

    def _config_args(self) -> list[str]:
        self.write_config(self.settings)
        return ["--config", str(self.config_path)]

    def _announced(self) -> dict[str, Any] | None:
        for path in self.data_dir.glob("run/*.json"):
            try:
                facts: dict[str, Any] = json.loads(path.read_bytes())
                if self._process and os.getsid(facts["pid"]) == self._process.pid:
                    return facts
            except (OSError, ValueError):
                continue  # removed, or its process is gone, while we looked
        return None


@contextmanager
def serve(data_dir: Path, settings: Settings | None = None, **kwargs: Any) -> Iterator[Node]:
    """Start a node and kill it at the end, if the test has not ended it by then."""
    with Node(data_dir, settings, **kwargs).start() as node:
        yield node


def _states(pid: int) -> set[str]:
    """Return the states of a process's threads, as /proc names them."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that ended while we looked
            found.add(path.read_text().rpartition(")")[2].split()[0])
    return found


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it is gone already, which is what the caller of a late signal wants to hear


def _let_log(pid: int) -> None:
    """Wait until a process, and its workers, have written what they logged before.

    The thread that does it may have to wait for a busy processor.
    """
    until_s = _clock.monotonic_s() + _LOG_PATIENCE_S
    while _clock.monotonic_s() < until_s:
        time.sleep(_LOG_PAUSE_S)
        if not any(_is_busy(each) for each in (pid, *_children(pid))):
            return


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def _is_busy(pid: int) -> bool:
    """Whether a thread of this process runs, wants to run, or waits for the disk."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "stat").read_text().rpartition(")")[2].split()[0] in "RD":
                return True
    return False


def _session(leader: int) -> list[int]:
    """Return the processes of the session that Popen made, zombies left out."""
    found = []
    # By one system call each: it is asked for at every end of a node, of all on the machine.
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):  # noqa: PTH208 - names only
        with contextlib.suppress(OSError):  # ended while we looked
            if os.getsid(pid) == leader and "Z" not in _states(pid):
                found.append(pid)
    return found
