"""A BuildStream project, and users of it that share nothing but a node."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import yaml

from tests.clients.tools import Result, run, tool, tree

WIDE_FILES = 400
BIG_BYTES = 9_000_000
WIDE_BYTES = 20_000

_PROJECT = {"name": "shop", "min-version": "2.0", "element-path": "elements"}
_ELEMENTS: dict[str, dict[str, Any]] = {
    "upper": {
        "kind": "manual",
        "build-depends": ["root.bst", "text.bst"],
        "config": {
            "install-commands": [
                'busybox mkdir -p "%{install-root}/share"',
                'busybox tr a-z A-Z < /hello.txt > "%{install-root}/share/upper.txt"',
            ]
        },
    },
    "all": {"kind": "compose", "build-depends": ["text.bst", "upper.bst"]},
    "app": {"kind": "stack", "depends": ["all.bst"]},
}
ELEMENTS = len(_ELEMENTS) + 2


class Project:
    """A project of five elements; app.bst holds what all the others make.

    What root.bst and text.bst import comes from archives: local files would be in every user's
    cache without any server. The files of text.bst are one each of what a tree can have, one too
    large for a batch, and enough small ones for several batches.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.text = root / "files" / "text"
        self.binaries = root / "files" / "root"
        self._origin = root / "origin"
        self._origin.mkdir(parents=True)
        aliases = {"origin": f"{self._origin.as_uri()}/"}
        write_yaml(root / "project.conf", {**_PROJECT, "aliases": aliases})
        self._fill()
        self.pack("root")
        self.pack("text")
        for name, element in _ELEMENTS.items():
            write_yaml(root / "elements" / f"{name}.bst", element)

    def _fill(self) -> None:
        bits = random.Random(1)
        (self.text / "wide").mkdir(parents=True)
        (self.text / "hello.txt").write_text("hello\n")
        (self.text / "empty").touch()
        (self.text / "hollow").mkdir()
        (self.text / "link").symlink_to("hello.txt")
        (self.text / "run").write_text("#!/bin/sh\n")
        (self.text / "run").chmod(0o755)
        (self.text / "big").write_bytes(bits.randbytes(BIG_BYTES))
        for number in range(WIDE_FILES):
            (self.text / "wide" / f"{number:04}").write_bytes(bits.randbytes(WIDE_BYTES))
        (self.binaries / "bin").mkdir(parents=True)
        shutil.copy(tool("busybox"), self.binaries / "bin" / "busybox")
        (self.binaries / "bin" / "sh").symlink_to("busybox")

    def pack(self, name: str) -> None:
        """Make files/<name> the content of the element of that name, as it is now."""
        archive = self._origin / f"{name}.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(self.root / "files" / name, arcname=".")
        ref = hashlib.sha256(archive.read_bytes()).hexdigest()
        source = {"kind": "tar", "url": f"origin:{archive.name}", "ref": ref, "base-dir": ""}
        element = {"kind": "import", "sources": [source]}
        write_yaml(self.root / "elements" / f"{name}.bst", element)

    def forget_origin(self) -> None:
        """Lose the archives, so that who has no cached copy can neither fetch nor build."""
        for archive in self._origin.iterdir():
            archive.unlink()


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write one YAML file and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def server(address: str, *, push: bool = True, instance: str = "") -> dict[str, Any]:
    """Return the configuration entry of one server."""
    return {"url": f"http://{address}", "push": push, "instance-name": instance}


class User:
    """Somebody with a home folder of their own, so with an empty cache at first."""

    def __init__(self, home: Path, project: Project, **config: Any) -> None:
        """Write the user's buildstream.conf; config is what is in it, `_` for `-`."""
        tool("bwrap")
        self.home = home
        self.project = project
        self._config = home / "buildstream.conf"
        write_yaml(self._config, {key.replace("_", "-"): value for key, value in config.items()})

    def bst(self, *args: str, code: int | None = 0) -> Result:
        """Run one command on the project."""
        env = {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "xdg-cache"),
            "XDG_CONFIG_HOME": str(self.home / "xdg-config"),
            "XDG_DATA_HOME": str(self.home / "xdg-data"),
        }
        options = ("--no-interactive", "--no-colors", "--config", str(self._config))
        return run(tool("bst"), *options, *args, cwd=self.project.root, env=env, code=code)

    def checkout(self, element: str, kind: str = "artifact") -> dict[str, tuple[str, object]]:
        """Return the content of an element's artifact, or of its sources."""
        folder = self.home / "checkout" / kind / element
        self.bst(kind, "checkout", "--directory", str(folder), element)
        # Sources are laid out in a folder for each element, also where there is only one.
        return tree(folder if kind == "artifact" else folder / element.removesuffix(".bst"))


def queue(result: Result, name: str) -> tuple[int, int, int]:
    """Return how many elements a queue (Pull, Fetch, Build, Push …) processed, skipped, failed."""
    line = rf"{name} Queue:\s+processed (\d+), skipped (\d+), failed (\d+)"
    found = re.search(line, result.output)
    assert found, f"no {name} queue in\n{result.output[-8000:]}"
    return int(found[1]), int(found[2]), int(found[3])


def artifacts(*servers: dict[str, Any]) -> dict[str, Any]:
    """Return the `artifacts` section that lists these servers."""
    return {"artifacts": {"servers": list(servers)}}


def sources(*servers: dict[str, Any]) -> dict[str, Any]:
    """Return the `source_caches` section that lists these servers."""
    return {"source_caches": {"servers": list(servers)}}
