"""Bazel with this node as its remote cache."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.tools import Counted, Result, run, tool, tree
from tests.process import Node

pytestmark = pytest.mark.clients

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


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "WORKSPACE").touch()
    (root / "BUILD").write_text(_BUILD)
    (root / "tree.bzl").write_text(_TREE)
    (root / "in.txt").write_text("hello\n")
    return root


class Builder:
    """Somebody with an output base of their own, so with nothing built at first."""

    def __init__(self, home: Path, workspace: Path, node: Node, *options: str) -> None:
        self._home = home
        self._workspace = workspace
        self._options = (f"--remote_cache=grpc://{node.address}", "--disk_cache=", *options)
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


@pytest.mark.parametrize("instance", ["", "team/a"])
def test_a_fresh_output_base_is_all_remote_hits(
    tmp_path: Path, workspace: Path, node: Node, instance: str
) -> None:
    name = f"--remote_instance_name={instance}"
    pushed = Counted(node)
    first = Builder(tmp_path / "first", workspace, node, name)
    built = first.build()
    assert (hits(built), executed(built)) == (0, ACTIONS)
    assert pushed.calls("UpdateActionResult") == ACTIONS
    assert pushed.calls("GetActionResult", "NOT_FOUND") == ACTIONS

    pulled = Counted(node)
    second = Builder(tmp_path / "second", workspace, node, name)
    again = second.build()
    assert (hits(again), executed(again)) == (ACTIONS, 0)
    assert "said by upper" in again
    assert pulled.calls("GetActionResult") == ACTIONS
    assert pulled.hits("action_result") == ACTIONS
    assert pulled.calls("UpdateActionResult") == 0
    assert tree(second.outputs) == tree(first.outputs)
    assert (second.outputs / "upper.txt").read_text() == "HELLO\n"
    assert len(list((second.outputs / "many" / "a" / "b").iterdir())) == 60


def test_instances_do_not_share_action_results(tmp_path: Path, workspace: Path, node: Node) -> None:
    Builder(tmp_path / "first", workspace, node, "--remote_instance_name=one").build()
    other = Builder(tmp_path / "second", workspace, node, "--remote_instance_name=two").build()
    assert (hits(other), executed(other)) == (0, ACTIONS)


def test_without_the_bytes_a_hit_costs_only_what_bazel_looks_into(
    tmp_path: Path, workspace: Path, node: Node
) -> None:
    Builder(tmp_path / "first", workspace, node).build()
    counted = Counted(node)
    minimal = Builder(tmp_path / "second", workspace, node, "--remote_download_minimal")
    result = minimal.build()
    assert (hits(result), executed(result)) == (ACTIONS, 0)
    assert counted.hits("action_result") == ACTIONS
    assert counted.calls("Read") == 2  # the Tree of the folder, and the one stdout
    assert counted.bytes_out() < BIG_BYTES


def test_a_lost_output_is_made_and_uploaded_again(
    tmp_path: Path, workspace: Path, node: Node
) -> None:
    Builder(tmp_path / "first", workspace, node).build()
    for path in (node.data_dir / "blobs").rglob(f"*-{BIG_BYTES}"):
        path.unlink()
    counted = Counted(node)
    second = Builder(tmp_path / "second", workspace, node)
    result = second.build()
    assert (hits(result), executed(result)) == (ACTIONS - 1, 1)
    assert counted.bytes_in() >= BIG_BYTES
    third = Builder(tmp_path / "third", workspace, node)
    assert hits(third.build()) == ACTIONS
    assert tree(third.outputs) == tree(second.outputs)


def test_a_listener_without_push_serves_a_builder_that_does_not_upload(
    tmp_path: Path, workspace: Path, node: Node
) -> None:
    Builder(tmp_path / "first", workspace, node).build()
    reading = (f"--remote_cache=grpc://{node.addresses[1]}", "--remote_upload_local_results=false")
    (workspace / "in.txt").write_text("changed\n")
    counted = Counted(node)
    result = Builder(tmp_path / "second", workspace, node, *reading).build()
    assert hits(result) == ACTIONS - 2  # upper and big read what has changed
    assert counted.bytes_in() == 0
    uploading = Builder(tmp_path / "third", workspace, node, reading[0])
    assert "not authorized to write local results" in uploading.build(code=34)
