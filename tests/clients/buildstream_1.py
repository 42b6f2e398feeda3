"""BuildStream 1: a project of files, and users of it that share nothing but a node."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any, Literal

from tests.clients.buildstream import write_yaml
from tests.clients.tools import OLD_YAML, Result, run, tool, tree

# 1.4 knows ReferenceStorage only; 1.6 speaks Remote Asset where a server has it.
Version = Literal["bst-1.4", "bst-1.6"]
VERSIONS: tuple[Version, ...] = ("bst-1.4", "bst-1.6")

ELEMENTS = 2
_BIG_BYTES = 3_000_000  # more than goes in a batch


class Project:
    """text.bst imports files; all.bst takes them over, as somebody who builds would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        (self.files / "deep" / "er").mkdir(parents=True)
        (self.files / "hello.txt").write_text("hello\n")
        (self.files / "empty").touch()
        (self.files / "run").write_text("#!/bin/sh\n")
        (self.files / "run").chmod(0o755)
        (self.files / "link").symlink_to("hello.txt")
        bits = random.Random(1)
        (self.files / "deep" / "big").write_bytes(bits.randbytes(_BIG_BYTES))
        for number in range(50):
            (self.files / "deep" / "er" / str(number)).write_bytes(bits.randbytes(2000))
        write_yaml(root / "project.conf", {"name": "shop", "element-path": "elements"})
        source = {"kind": "local", "path": "files"}
        write_yaml(root / "elements" / "text.bst", {"kind": "import", "sources": [source]})
        depends = [{"filename": "text.bst", "type": "build"}]
        write_yaml(root / "elements" / "all.bst", {"kind": "compose", "depends": depends})


class User:
    """Somebody with a home folder of their own, so with an empty cache at first."""

    def __init__(
        self, home: Path, project: Project, version: Version, *servers: dict[str, Any]
    ) -> None:
        """Write the user's configuration; servers are entries of `artifacts`, in their order."""
        tool("bwrap")
        self.home = home
        self.project = project
        self._version = version
        self._config = home / "buildstream.conf"
        folders = {
            f"{name}dir": str(home / name) for name in ("source", "build", "artifact", "log")
        }
        write_yaml(self._config, {**folders, "artifacts": list(servers)})

    def bst(self, *args: str, code: int | None = 0) -> Result:
        """Run one command on the project."""
        env = {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "xdg-cache"),
            "XDG_CONFIG_HOME": str(self.home / "xdg-config"),
        }
        if self._version == "bst-1.6":
            env["PYTHONPATH"] = str(OLD_YAML)
        options = ("--no-interactive", "--no-colors", "--config", str(self._config))
        return run(tool(self._version), *options, *args, cwd=self.project.root, env=env, code=code)

    def key(self, element: str) -> str:
        """Return the cache key of an element, as it stands in its reference."""
        shown = self.bst("show", "--deps", "none", "--format", "%{full-key}", element)
        return shown.output.strip().splitlines()[-1]

    def checkout(self, element: str) -> dict[str, tuple[str, object]]:
        """Return the content of an element's artifact."""
        folder = self.home / "checkout"
        shutil.rmtree(folder, ignore_errors=True)
        self.bst("checkout", element, str(folder))
        return tree(folder)
