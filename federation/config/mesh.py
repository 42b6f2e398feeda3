"""The keys about the mesh: how the nodes that join by invitation reach this one."""

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator

from federation.config.section import Section, key
from federation.config.types import Address, AddressText, parse_address

MESH_FOLDER = "mesh"  # in the data directory
MEMBERS_FOLDER = "members"  # in the mesh's folder, as the next two
ACCEPTED_FOLDER = "accepted"
INVITATIONS_FOLDER = "invitations"

_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_member_name(name: str) -> bool:
    """Whether a node may have this name in a mesh, where names are names of files, too."""
    return _MEMBER_NAME.fullmatch(name) is not None


def authority_of(url: str) -> Address:
    """Return host and port of a member's URL.

    Raises ValueError for any URL but https://host:port of a valid host name or IP address: what
    other nodes send is written into a file.
    """
    parts = urlsplit(url)
    # One spelling only: URLs are compared between nodes.
    if parts.scheme != "https" or url != f"https://{parts.netloc}" or not parts.port:
        raise ValueError("a mesh uses TLS: https://host:port, with the port and nothing behind it")
    return parse_address(parts.netloc)


def _check_mesh_url(url: str) -> str:
    authority_of(url)
    return url


MeshUrl = Annotated[str, AfterValidator(_check_mesh_url)]


class MeshConfig(Section):
    """The listener for the other members of the mesh. `federation invite --help` explains it."""

    url: MeshUrl | None = key(
        live=False,
        default=None,
        description="https://host:port at which the other members reach this node; "
        "default: it is in no mesh",
    )
    address: AddressText | None = key(
        live=False,
        default=None,
        description="host:port of the listener for them; default: every address, at url's port",
    )

    @model_validator(mode="after")
    def _needs_url(self) -> Self:
        if self.address is not None and self.url is None:
            raise ValueError("address needs url: the others have to know where to connect")
        return self

    @property
    def listens_on(self) -> str:
        """The address of the listener. Only where there is a url."""
        assert self.url is not None
        return self.address or f"0.0.0.0:{authority_of(self.url).port}"


def mesh_folder(data_dir: Path) -> Path:
    """Return the folder of certificates, members and invitations."""
    return data_dir / MESH_FOLDER
