"""What the commands about the mesh have in common: the node that they speak for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from federation.config.file import load
from federation.config.model import Config
from federation.core.clock import SystemClock
from federation.core.errors import ConfigError
from federation.mesh.folder import MeshFolder
from federation.storage.factory import operations_on
from federation.wire.mesh import Member

_LINES = """\
the configuration does not say where other nodes reach this one. Add, with this node's own name:

    mesh:
      url: https://{name}.example.com:11002
"""


class MeshNode(NamedTuple):
    """A node that is, or is about to be, in a mesh."""

    config: Config
    folder: MeshFolder
    me: Member

    @property
    def own_peers(self) -> set[str]:
        """Names of peers that the configuration itself has."""
        members = {each.name for each in self.folder.members()}
        return {peer.name for peer in self.config.peers} - members

    @property
    def is_served(self) -> bool:
        """Whether a process serves its data directory."""
        return bool(operations_on(self.config.data_dir, self.config.storage).processes())


def mesh_node(config_path: Path | None) -> MeshNode:
    """Return the node of a configuration; makes its certificates if it has none. Blocks.

    Raises ConfigError.
    """
    if config_path is None:
        raise ConfigError("give the node's configuration with --config")
    config = load(config_path)
    if config.mesh.url is None:
        raise ConfigError(f"{config_path}: {_LINES.format(name=config.node_name)}")
    folder = MeshFolder(config.data_dir)
    folder.prepare(config.node_name, config.mesh.url, SystemClock().wall_s())
    return MeshNode(config, folder, folder.own(config.node_name, config.mesh.url))
