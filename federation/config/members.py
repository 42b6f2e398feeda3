"""Reads the members of the mesh from the data directory into the configuration.

Each is a file of its own, members/NAME.yaml, which the node and `federation join` write: the
configuration file itself is its owner's alone. Together with the mesh's own listener they become
peers and a listener like those that the file names.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from federation.config.file import read_section
from federation.config.mesh import (
    ACCEPTED_FOLDER,
    INVITATIONS_FOLDER,
    MEMBERS_FOLDER,
    is_member_name,
    mesh_folder,
)
from federation.config.model import Config
from federation.config.peers import PeerConfig
from federation.config.section import Section
from federation.config.types import Flag
from federation.core.errors import ConfigError

MEMBERS_MAX = 64
_FILE_MAX_BYTES = 64 * 1024

Via = Literal["invited", "inviter", "introduced"]


class MemberConfig(Section):
    """One member: how it came, and how it is replicated to."""

    via: Via = Field(description="invited: by this node; inviter: it invited this node; introduced")
    introduced_by: str | None = Field(default=None, description="the member that introduced it")
    introduces: Flag = Field(
        default=False, description="whether this node takes the members that it introduces"
    )
    peer: PeerConfig = Field(description="as an item of peers")


class MeshFiles(NamedTuple):
    """The files of a node's own identity, and the folders beside them."""

    root: Path

    @property
    def server_cert(self) -> Path:
        """The certificate of the mesh's listener."""
        return self.root / "server.crt"

    @property
    def server_key(self) -> Path:
        """Its private key."""
        return self.root / "server.key"

    @property
    def client_cert(self) -> Path:
        """What this node shows to other members."""
        return self.root / "client.crt"

    @property
    def client_key(self) -> Path:
        """Its private key."""
        return self.root / "client.key"

    @property
    def members(self) -> Path:
        """NAME.yaml and NAME.crt, the certificate of its listener, of each other member."""
        return self.root / MEMBERS_FOLDER

    @property
    def accepted(self) -> Path:
        """NAME.crt: what each member shows, this node included."""
        return self.root / ACCEPTED_FOLDER

    @property
    def invitations(self) -> Path:
        """One certificate for each invitation that was not used yet."""
        return self.root / INVITATIONS_FOLDER


def mesh_files(data_dir: Path) -> MeshFiles:
    """Return where the files of the mesh are in a data directory."""
    return MeshFiles(mesh_folder(data_dir))


def read_members(files: MeshFiles) -> dict[str, MemberConfig]:
    """Return the members by name; blocks. Raises ConfigError for a file that is not valid."""
    paths = sorted(files.members.glob("*.yaml")) if files.members.is_dir() else []
    # Whoever writes a file begins it under a hidden name.
    paths = [path for path in paths if not path.name.startswith(".")]
    if len(paths) > MEMBERS_MAX:
        raise ConfigError(f"{files.members}: {len(paths)} members; at most {MEMBERS_MAX}")
    return {path.stem: _read(path) for path in paths}


def _read(path: Path) -> MemberConfig:
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    # Without the environment: another node had a part in this text, and must not read variables.
    member = read_section(MemberConfig, text, path, {})
    # The other files of the member are found by this name.
    if member.peer.name != path.stem or not is_member_name(path.stem):
        raise ConfigError(f"{path}: peer.name is {member.peer.name!r}; it must be {path.stem!r}")
    return member


def with_members(config: Config) -> Config:
    """Return the configuration with the mesh's listener and members, if the node is in a mesh.

    Until `serve`, `invite` or `join` has made the node's certificates there are none. Blocks.
    Raises ConfigError, also for a member with the name of a peer in the configuration.
    """
    files = mesh_files(config.data_dir)
    # The server's certificate is written last, so it says that all files are there.
    if config.mesh.url is None or not files.server_cert.exists():
        return config
    raw: dict[str, Any] = config.model_dump(by_alias=True)
    tls = {
        "server-cert": files.server_cert,
        "server-key": files.server_key,
        "peer-certs": files.accepted,
        "invitations": files.invitations,
    }
    # With push: members write here, and nobody else gets past the handshake.
    raw["listeners"].append({"address": config.mesh.listens_on, "push": True, "tls": tls})
    members = read_members(files).values()
    raw["peers"] += [member.peer.model_dump(by_alias=True) for member in members]
    try:
        # As a whole, for the checks between members and what the file says.
        return Config.model_validate(raw)
    except ValidationError as error:
        reasons = "; ".join(detail["msg"] for detail in error.errors())
        raise ConfigError(f"{files.members}: with these members: {reasons}") from None
