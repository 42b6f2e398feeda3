"""Sites of a mesh without processes: a folder, a name and a URL each."""

from __future__ import annotations

from pathlib import Path

from federation.config.types import Address
from federation.core.clock import SystemClock
from federation.mesh.folder import MeshFolder
from federation.mesh.invitation import Invitation, InvitationPair
from federation.wire.mesh import Member

NOW_S = SystemClock().wall_s()
NOBODY: set[str] = set()


class MeshSite:
    """One site with its certificates."""

    def __init__(self, folder: Path, name: str, url: str | None = None) -> None:
        self.name = name
        self.url = url or f"https://{name}.example.com:11002"
        self.data_dir = folder / name
        self.folder = MeshFolder(self.data_dir)
        self.folder.prepare(name, self.url, NOW_S)
        self.me: Member = self.folder.own(name, self.url)

    def knows(self) -> dict[str, str]:
        """How each of its members came."""
        return {each.name: each.config.via for each in self.folder.members()}

    def invite(self, secret: bytes = b"s" * 16, until_s: float = NOW_S + 60) -> InvitationPair:
        """Open an invitation."""
        made = Invitation(Address(self.name, 1), b"f" * 32, secret, int(until_s)).pair()
        self.folder.add_invitation(made, NOW_S)
        return made

    def admit(self, joiner: Member, pair: InvitationPair, taken: set[str] = NOBODY) -> None:
        """Let a joiner use an invitation."""
        self.folder.admit(joiner, pair.fingerprint, self.me, taken, NOW_S)

    def introduce(self, member: Member, by: str = "paris") -> bool:
        """Take a member that another one introduces."""
        return self.folder.add(member, "introduced", by, self.me, NOBODY, NOW_S)
