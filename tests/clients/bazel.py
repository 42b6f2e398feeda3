"""A Bazel workspace, and builders in it that share nothing but a node."""

from __future__ import annotations

import re
from pathlib import Path

from tests.clients.tools import Result, run, tool

# Debian's Bazel finds its own parts only if told so, and downloads nothing.
_STARTUP = (
    "--batch",
    "--nohome_rc",
    "--nosystem_rc",
    "--noworkspace_rc",
    "--install_base=/usr/share/bazel",
    "--trust_install_base",
)
_BUILD = """\
load(":tree.bzl", "tree")
genrule(name = "upper", srcs = ["in.txt"], outs = ["upper.txt"],
        cmd = "tr a-z A-Z < $< > $@; echo said by upper")
genrule(name = "big", srcs = ["in.txt"], outs = ["big.bin"],
        cmd = "head -c 5000000 /dev/zero | tr '\\\\0' x > $@")
genrule(name = "empty", outs = ["empty.txt"], cmd = "touch $@")
genrule(name = "program", outs = ["program.sh"], executable = True,
        cmd = "echo '#!/bin/sh' > $@; chmod +x $@")
tree(name = "many")
"""
_TREE = """\
def _tree(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    script = 'mkdir -p $1/a/b && for i in $(seq 60); do echo $i > $1/a/b/$i; done'
    ctx.actions.run_shell(outputs = [out], command = script, arguments = [out.path])
    return [DefaultInfo(files = depset([out]))]
tree = rule(implementation = _tree)
"""
ACTIONS = 5
BIG_BYTES = 5_000_000


def write_workspace(root: Path) -> Path:
    """Write a workspace of ACTIONS actions, one output each, and return its folder."""
    root.mkdir()
    (root / "WORKSPACE").touch()
    (root / "BUILD").write_text(_BUILD)
    (root / "tree.bzl").write_text(_TREE)
    (root / "in.txt").write_text("hello\n")
    return root


class Builder:
    """Somebody with an output base of their own, so with nothing built at first."""

    def __init__(self, home: Path, workspace: Path, remote: str, *options: str) -> None:
        """Describe a builder; remote: the URL of the cache, or host:port of a gRPC listener."""
        self._home = home
        self._workspace = workspace
        url = remote if "://" in remote else f"grpc://{remote}"
        self._options = (f"--remote_cache={url}", "--disk_cache=", *options)
        self.outputs = home / "out-bin"

    def build(self, code: int = 0) -> Result:
        self._home.mkdir(exist_ok=True)
        return run(
            tool("bazel"),
            *_STARTUP,
            f"--output_user_root={self._home}/root",
            "build",
            f"--symlink_prefix={self._home}/out-",
            "--noshow_progress",
            *self._options,
            "//:all",
            cwd=self._workspace,
            env={"HOME": str(self._home)},
            code=code,
        )


def hits(result: Result) -> int:
    """Return how many actions came out of the remote cache."""
    found = re.search(r"(\d+) remote cache hit", result.output)
    return int(found[1]) if found else 0


def executed(result: Result) -> int:
    """Return how many actions Bazel ran itself."""
    return sum(
        int(n)
        for n in re.findall(r"(\d+) (?:linux-sandbox|processwrapper-sandbox|local)", result.output)
    )
