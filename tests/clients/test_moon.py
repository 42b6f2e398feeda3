"""moon with this node as its remote cache, over gRPC."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.clients.tools import Counted, Result, run, tool, tree
from tests.support.process import Node

pytestmark = pytest.mark.clients

BIG_BYTES = 9_000_000
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
        """Point moon at the node and commit, since moon asks git what has changed."""
        remote = {"api": "grpc", "host": f"grpc://{node.addresses[address]}", "cache": cache}
        settings = {"projects": ["app"], "remote": remote, "telemetry": False}
        (self.root / ".moon" / "workspace.yml").write_text(yaml.safe_dump(settings))
        for args in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "state"]):
            self._run("git", "-c", "user.name=a", "-c", "user.email=a@localhost", *args)
        return self

    def make(self) -> Result:
        """Run the task."""
        return self._run("moon", "run", "app:make")

    def forget(self) -> None:
        """Lose everything that was made or cached here."""
        shutil.rmtree(self.root / ".moon" / "cache")
        shutil.rmtree(self.out)

    def _run(self, name: str, *args: str) -> Result:
        home = self.root / ".home"
        home.mkdir(exist_ok=True)
        return run(tool(name), *args, cwd=self.root, env={"HOME": str(home)})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("instance", ["moon-outputs", "", "team/a"])
def test_a_run_after_losing_everything_is_a_remote_hit(
    workspace: Workspace, node: Node, compression: str, instance: str
) -> None:
    workspace.use(node, compression=compression, instanceName=instance)
    pushed = Counted(node)
    made = workspace.make()
    assert "WARN" not in made
    assert "said by make" in made
    assert pushed.calls("GetActionResult", "NOT_FOUND") == 1
    assert pushed.calls("UpdateActionResult") == 1
    before = tree(workspace.out)
    assert before["run"] == ("program", b"#!/bin/sh\necho hi\n")

    workspace.forget()
    pulled = Counted(node)
    again = workspace.make()
    assert "WARN" not in again
    assert "cached from remote" in again
    assert pulled.hits("action_result") == 1
    assert pulled.calls("UpdateActionResult") == 0
    assert pulled.bytes_in() == 0
    assert tree(workspace.out) == before


def test_a_lost_output_runs_the_task_again_and_repairs_the_node(
    workspace: Workspace, node: Node
) -> None:
    workspace.use(node, compression="none")
    workspace.make()
    for path in (node.data_dir / "blobs").rglob(f"*-{BIG_BYTES}"):
        path.unlink()
    workspace.forget()
    repaired = Counted(node)
    assert "cached from remote" not in workspace.make()
    assert repaired.bytes_in() >= BIG_BYTES
    workspace.forget()
    assert "cached from remote" in workspace.make()
    assert (workspace.out / "big").stat().st_size == BIG_BYTES


def test_a_listener_without_push_is_read_and_not_written(workspace: Workspace, node: Node) -> None:
    workspace.use(node, address=1, compression="none")
    refused = Counted(node)
    assert "said by make" in workspace.make()
    assert refused.bytes_in() == 0
    assert refused.calls("UpdateActionResult") == 0
