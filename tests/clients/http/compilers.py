"""ccache and sccache: a C project whose objects come from the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.clients.http.builds import CacheAddress, ClientBuild, Homes, variables
from tests.clients.tools import Result, run, tool, tree
from tests.support.guard import guarded
from tests.support.polling import wait_until

# The last one has an object of 3 MB.
_SOURCES = {
    "one.c": "int one(void) { return 1; }\n",
    "two.c": "int two(void) { return 2; }\n",
    "big.c": "char big[3000000] = {1};\n",
}
_PATIENT = "connect-timeout=30000|operation-timeout=60000"  # milliseconds; by default 100 ms, 10 s


class _CProject:
    """Sources, and what the compiler makes of each."""

    actions = len(_SOURCES)

    def __init__(self, folder: Path) -> None:
        self.homes = Homes(folder / "homes")
        self.root = folder / "project"
        self.root.mkdir(parents=True)
        for name, text in _SOURCES.items():
            (self.root / name).write_text(text)

    def compile(self, compiler: str, env: Mapping[str, str], code: int) -> list[Result]:
        """Compile each source file; the launcher must end with this exit code every time."""
        shutil.rmtree(self.root / "out", ignore_errors=True)
        (self.root / "out").mkdir()
        return [
            run(
                tool(compiler),
                *("gcc", "-c", name, "-o", f"out/{name}.o"),
                cwd=self.root,
                env=env,
                code=code,
            )
            for name in _SOURCES
        ]

    def outputs(self) -> dict[str, tuple[str, object]]:
        return tree(self.root / "out")


class Ccache:
    """ccache with one of the layouts that it knows for remote storage."""

    actions = _CProject.actions

    def __init__(self, folder: Path, layout: str = "subdirs", path: str = "/kv/ccache") -> None:
        self._project = _CProject(folder)
        self._layout = layout
        self._path = path

    def setting(self, at: CacheAddress) -> str:
        return f"remote_storage = {at.url_with_token}{self._path}"

    def build(self, at: CacheAddress, code: int = 0) -> ClientBuild:
        home = self._project.homes.new()
        options = "".join(f"|{option}" for option in (f"layout={self._layout}", _PATIENT))
        (home / "ccache.conf").write_text(f"{self.setting(at)}{options}\n")
        # Without compression the big object is a big entry.
        env = {"CCACHE_DIR": str(home), "CCACHE_NOCOMPRESS": "1"}
        results = self._project.compile("ccache", env, code)
        shown = run(tool("ccache"), "--print-stats", cwd=self._project.root, env=env)
        stats = dict(line.split("\t") for line in shown.output.splitlines())
        return ClientBuild(
            hits=int(stats["remote_storage_hit"]),
            executed=int(stats["cache_miss"]),
            outputs=self._project.outputs(),
            code=code,
            output="".join(result.output for result in results) + shown.output,
        )


class Sccache:
    """sccache with a WebDAV folder; a server of its own for each build.

    as_prefix: whether the folder is a prefix of its keys. Then it asks for those above, too.
    """

    actions = _CProject.actions

    def __init__(self, folder: Path, *, as_prefix: bool = False) -> None:
        self._project = _CProject(folder)
        self._as_prefix = as_prefix

    def setting(self, at: CacheAddress) -> str:
        endpoint = f"SCCACHE_WEBDAV_ENDPOINT={at.url}"
        where = f"{endpoint} SCCACHE_WEBDAV_KEY_PREFIX=kv/sccache"
        if not self._as_prefix:
            where = f"{endpoint}/kv/sccache"
        return f"{where} SCCACHE_WEBDAV_TOKEN={at.token}" if at.token else where

    def build(self, at: CacheAddress, code: int = 0) -> ClientBuild:
        home, remote = self._project.homes.new(), variables(self.setting(at))
        # A socket's path has at most 107 characters: not every test's folder is that short.
        with TemporaryDirectory(prefix="sccache-") as short:
            env = {"HOME": str(home), "SCCACHE_SERVER_UDS": f"{short}/socket"}
            with _sccache_server(home, {**env, **remote}) as ended:
                if ended is not None:  # as the first compilation would find it
                    assert ended.code == code, ended.output
                    return ClientBuild(0, 0, {}, ended.code, ended.output)
                results = self._project.compile("sccache", env, code)
                stats = wait_until(partial(self._all_written, env), "sccache has written all")
        return ClientBuild(
            hits=_sum_of(stats["cache_hits"]),
            executed=_sum_of(stats["cache_misses"]),
            outputs=self._project.outputs(),
            code=code,
            output="".join(result.output for result in results) + json.dumps(stats),
        )

    def _all_written(self, env: Mapping[str, str]) -> dict[str, Any] | None:
        """Return what the server has counted once it waits for no answer of the cache.

        It writes to the cache after it has given the compiler's output to who asked for it.
        """
        asked = ("--show-stats", "--stats-format", "json")
        shown = run(tool("sccache"), *asked, cwd=self._project.root, env=env)
        stats: dict[str, Any] = json.loads(shown.output)["stats"]
        written = stats["cache_writes"] + stats["cache_write_errors"]
        return stats if written == _sum_of(stats["cache_misses"]) else None


def _sum_of(counted: Mapping[str, Mapping[str, int]]) -> int:
    return sum(counted["counts"].values())


@contextmanager
def _sccache_server(home: Path, env: Mapping[str, str]) -> Iterator[Result | None]:
    """Run the server in the foreground; if it refuses to start, give how it ended."""
    command = (str(tool("sccache")),)
    server = {"SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1"}
    log_path, socket = home / "server.log", Path(env["SCCACHE_SERVER_UDS"])
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            guarded(command),
            cwd=home,
            env={"PATH": os.environ["PATH"], **env, **server},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        # It listens only after it has checked its storage.
        wait_until(lambda: process.poll() is not None or socket.exists(), "sccache's server")
        code = process.poll()
        said = log_path.read_text(errors="replace")
        yield Result(command, code, said) if code is not None else None
    finally:
        process.kill()
        process.wait()
