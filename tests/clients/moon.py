"""A moon workspace of one task, and a remote cache for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.clients.tools import ROOT, Result, run, tool
from tests.support.process import Node

BIG_BYTES = 9_000_000
# Its plugins, compiled: that takes 5 s of CPU, and depends on no project.
_COMPILED = ROOT / "moon-compiled"
_TASKS = {
    "language": "bash",
    "tasks": {"make": {"command": "sh make.sh", "inputs": ["make.sh"], "outputs": ["out"]}},
}
_SCRIPT = f"""\
mkdir -p out/sub
printf '#!/bin/sh\\necho hi\\n' > out/run
chmod +x out/run
head -c {BIG_BYTES} /dev/zero | tr '\\0' y > out/big
: > out/empty
for i in $(seq 50); do echo $i > out/sub/$i; done
echo said by make
echo complained by make >&2
"""


class Workspace:
    """A repository with one project of one task."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / "app" / "out"
        (root / ".moon").mkdir(parents=True)
        (root / "app").mkdir()
        (root / "app" / "moon.yml").write_text(yaml.safe_dump(_TASKS))
        (root / "app" / "make.sh").write_text(_SCRIPT)
        (root / ".gitignore").write_text(".moon/cache\nout\n.home\n")

    def use(self, node: Node, address: int = 0, **cache: str) -> Workspace:
        """Point moon at a gRPC listener of the node."""
        host = f"grpc://{node.addresses[address]}"
        return self.configure({"api": "grpc", "host": host, "cache": cache})

    def configure(self, remote: Mapping[str, Any]) -> Workspace:
        """Write the `remote` section and commit, since moon asks git what has changed."""
        settings = {"projects": ["app"], "remote": dict(remote), "telemetry": False}
        (self.root / ".moon" / "workspace.yml").write_text(yaml.safe_dump(settings))
        for args in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "state"]):
            self._run("git", "-c", "user.name=a", "-c", "user.email=a@localhost", *args)
        return self

    def make(self, **env: str) -> Result:
        """Run the task, with these variables besides."""
        return self._run("moon", "run", "app:make", **env)

    def forget(self) -> None:
        """Lose everything that was made or cached here."""
        for made in (self.root / ".moon" / "cache", self.out):
            shutil.rmtree(made, ignore_errors=True)

    def _run(self, name: str, *args: str, **env: str) -> Result:
        home = self.root / ".home"
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(_COMPILED)}
        return run(tool(name), *args, cwd=self.root, env={**own, **env})
