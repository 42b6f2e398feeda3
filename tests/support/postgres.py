"""A PostgreSQL server for tests: started as an unprivileged user in a folder of its own.

    with postgres() as server:
        url = server.new_database()
        server.kill()
        server.start()

Clients connect through a socket in the server's folder, so that no port is taken; a test that has
to cut connections puts a proxy in between. A folder in memory keeps the tests fast: what a killed
server loses is in its own buffers, and what it wrote survives it on any file system.
"""

from __future__ import annotations

import itertools
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import psycopg

from tests.support.guard import guarded
from tests.support.polling import wait_until
from tests.support.quick import MEMORY

OLDEST = 15
_PACKAGES = Path("/usr/lib/postgresql")  # where Debian puts each version
_SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "64MB",
    "max_connections": "120",
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
    "wal_writer_delay": "10s",  # what is not flushed on purpose stays in memory, and can be lost
    "checkpoint_timeout": "1h",
}
_ANSWER_S = 60.0


def binaries() -> Path:
    """Return the folder with the programs of the newest installed version."""
    found = sorted(
        (int(each.name), each / "bin")
        for each in (_PACKAGES.iterdir() if _PACKAGES.is_dir() else ())
        if each.name.isdecimal() and (each / "bin" / "initdb").exists()
    )
    if not found or found[-1][0] < OLDEST:
        raise AssertionError(f"no PostgreSQL {OLDEST} or newer here: run tests/servers/install")
    return found[-1][1]


class Postgres:
    """One server; its databases outlive kill() and stop(), and go with drop_databases()."""

    def __init__(self, folder: Path, primary: Postgres | None = None) -> None:
        """primary: be its standby, and have its commits wait for this one."""
        self._folder = folder
        self._binaries = binaries()
        self._numbers = itertools.count(1)
        self._made: list[str] = []  # databases
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: tuple[str, ...] = ()
        if os.geteuid() == 0:  # which the server refuses to run as
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            # Popen(user=...) would fork this process, which has threads.
            self._as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}",
                             "--clear-groups", "--")  # fmt: skip
        if primary is None:
            self._run("initdb", "-D", "data", "-U", "cache", "-A", "trust", "-E", "UTF8",
                      "--no-sync", "--locale=C")  # fmt: skip
        else:
            self._run("pg_basebackup", "-D", "data", "-h", str(primary.folder), "-U", "cache",
                      "-R", "--no-sync", "--checkpoint=fast")  # fmt: skip
            primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.sql("SELECT pg_reload_conf()")

    def __repr__(self) -> str:
        return f"<Postgres in {self._folder}>"

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [*self._as_user, self._binaries / program, *args],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def start(self, **settings: str) -> None:
        """Start the server and wait until it answers; settings: of postgresql.conf."""
        given = {**_SETTINGS, "unix_socket_directories": str(self._folder), **settings}
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_user,
                    *guarded([self._binaries / "postgres", "-D", "data", *options]),
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, "PostgreSQL answers", timeout_s=_ANSWER_S)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    @property
    def folder(self) -> Path:
        """Where the server's files and its socket are."""
        return self._folder

    def promote(self) -> None:
        """Have a standby become the primary."""
        self.sql("SELECT pg_promote()")

    def url(self, database: str = "postgres") -> str:
        """Return how to connect to a database."""
        return f"postgresql://cache@/{database}?host={self._folder}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, if it has any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        self._made.append(name)
        return self.url(name)

    def drop_databases(self) -> None:
        """Remove all that new_database made: hundreds would take gigabytes of memory."""
        made, self._made = self._made, []
        for name in made:
            self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def drop_database(self, url: str) -> None:
        """Remove a database that new_database made, even while somebody is connected to it."""
        self.sql(f"DROP DATABASE {database_of(url)} WITH (FORCE)")

    def kill(self) -> None:
        """End the server and all its processes at once, as a crash of the machine would."""
        server = self._running()
        server.send_signal(signal.SIGSTOP)  # so that it neither starts nor reaps another process
        children = _children(server.pid)
        _signal(children, signal.SIGKILL)
        server.kill()
        server.wait()
        # They hold the shared memory until they are gone.
        wait_until(lambda: not any(map(_is_alive, children)), "all its processes are gone")

    def pause(self) -> None:
        """Have the server and all its processes stand still until resume()."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        pid = self._running().pid
        _signal([pid, *_children(pid)], number)

    def stop(self) -> None:
        """End the server in order; what was committed is kept."""
        server = self._running()
        server.send_signal(signal.SIGINT)
        server.wait(_ANSWER_S)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def close(self) -> None:
        """End the server, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.stop()


def database_of(url: str) -> str:
    """Return the name of the database that a URL of Postgres.url() leads to."""
    return url.partition("?")[0].rpartition("/")[2]


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each, number)


def _is_alive(pid: int) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@contextmanager
def postgres(primary: Postgres | None = None, **settings: str) -> Iterator[Postgres]:
    """Run a server until the end of the block.

    primary: run a synchronous standby of it; settings: of postgresql.conf.
    """
    folder = Path(mkdtemp(prefix="pg-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        server = Postgres(folder, primary)
        try:
            server.start(**settings)
            yield server
        finally:
            server.close()
    finally:
        rmtree(folder)
