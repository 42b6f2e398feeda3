"""A real node of a mesh at an address that outlives it, and its operator's commands."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from federation.mesh.folder import MeshFolder
from federation.wire.mesh import Member
from tests.faults.replication.link import Link
from tests.support.process import Node, federation


class ServedSite:
    """A node whose configuration file says nothing of others."""

    def __init__(self, folder: Path, name: str, stack: ExitStack, **settings: Any) -> None:
        self.name = name
        self.link = stack.enter_context(Link())
        self.url = f"https://{self.link.address}"
        self.data_dir = folder / name
        mesh = {"url": self.url, "address": "127.0.0.1:0"}
        settings = {"node-name": name, "mesh": mesh, **settings}
        self.node = stack.enter_context(Node(self.data_dir, settings, name=name))

    def start(self) -> ServedSite:
        self.node.start()
        self.link.target = self.node.addresses[-1]
        return self

    @property
    def folder(self) -> MeshFolder:
        return MeshFolder(self.data_dir)

    @property
    def me(self) -> Member:
        return self.folder.own(self.name, self.url)

    def config(self) -> Path:
        """The configuration file, written as the node's start does."""
        self.node.write_config(self.node.settings)
        return self.node.config_path

    def invite(self) -> str:
        """Return a code, which the running node takes within a second."""
        code: str = self.run("invite")["code"]
        return code

    def run(self, command: str, *options: str, code: int = 0) -> dict[str, Any]:
        """Run a command about this site."""
        done = federation(command, *options, "--config", str(self.config()), "--json")
        assert done.returncode == code, done.stdout + done.stderr
        facts: dict[str, Any] = json.loads(done.stdout)
        return facts

    def knows(self) -> dict[str, str]:
        return {each.name: each.config.via for each in self.folder.members()}
