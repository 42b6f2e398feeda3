"""The mesh's folder in the data directory: this node's certificates, members and invitations.

Every change is a whole file that appears or goes, made under one lock for all processes. A running
node takes it over by itself: it watches the folder, and its listener watches the certificates.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import yaml

from federation.access.allowlist import fingerprint_of, parse_client_list
from federation.access.keygen import make_pair
from federation.access.new_files import alone, replace_file, sync_names
from federation.access.tls import certificates_in
from federation.config.members import MEMBERS_MAX, MemberConfig, Via, mesh_files, read_members
from federation.config.mesh import authority_of
from federation.core.clock import utc_text
from federation.core.errors import ConfigError, InvalidRequest, NotAllowed
from federation.mesh.certificates import check_member, check_tells_apart, der_of, pem_of
from federation.mesh.invitation import InvitationPair
from federation.wire.mesh import Member

INVITATIONS_MAX = 20  # open at once
_DAYS = 3650
_REMOVED_MAX = 200  # names of removed members that are remembered
_SELF = "_self.crt"  # what this node shows; no member can have this name


class KnownMember(NamedTuple):
    """A member as the files say."""

    member: Member  # client_der is empty if the writing of its files was broken off
    config: MemberConfig

    @property
    def name(self) -> str:
        """Its name."""
        return self.member.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate that it shows."""
        return fingerprint_of(self.member.client_der)


class MeshFolder:
    """The files of one data directory. Every method blocks and may raise OSError."""

    def __init__(self, data_dir: Path) -> None:
        self.files = mesh_files(data_dir)
        self._removed = self.files.root / "removed"

    def __repr__(self) -> str:
        return f"<MeshFolder {self.files.root}>"

    def prepare(self, member_name: str, url: str, now_s: float) -> bool:
        """Make the folder and certificates for a node of this name and URL; return if it did.

        Raises ConfigError if it has certificates for another name or host, which others trust.
        """
        files = self.files
        files.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (files.root, files.members, files.accepted, files.invitations):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
                self._give(folder)
        with alone(files.root):
            if files.server_cert.exists():
                self._check_own(member_name, url, now_s)
                return False
            shown = make_pair("client", [member_name], "ec", now_s, _DAYS)
            self._write(files.client_key, shown.key, 0o600)
            self._write(files.client_cert, shown.certificate)
            # So the list of whom the listener accepts is never empty.
            self._write(files.accepted / _SELF, shown.certificate)
            served = make_pair("server", [authority_of(url).host], "ec", now_s, _DAYS)
            self._write(files.server_key, served.key, 0o600)
            self._write(files.server_cert, served.certificate)  # the last: all is there
        return True

    def own(self, member_name: str, url: str) -> Member:
        """Return what others need to know of this node, which prepare() has made."""
        files = self.files
        server, client = files.server_cert.read_bytes(), files.client_cert.read_bytes()
        return Member(member_name, url, der_of(server), der_of(client))

    def members(self) -> list[KnownMember]:
        """Return the other members, by name. Raises ConfigError for a file that is not valid."""
        return [
            KnownMember(
                Member(
                    name,
                    config.peer.url,
                    _der_in(self.files.members / f"{name}.crt"),
                    _der_in(self.files.accepted / f"{name}.crt"),
                ),
                config,
            )
            for name, config in read_members(self.files).items()
        ]

    # Invitations

    def add_invitation(self, pair: InvitationPair, now_s: float) -> None:
        """Let whoever has this pair's key join. Raises ConfigError if too many are open."""
        with alone(self.files.root):
            open_ones = certificates_in(self.files.invitations)
            # Those that have ended are of no use, and must not fill the bound.
            for path in list(open_ones):
                if _end_s(path) < now_s:
                    path.unlink()
                    open_ones.remove(path)
            if len(open_ones) >= INVITATIONS_MAX:
                raise ConfigError(
                    f"{INVITATIONS_MAX} invitations are open; wait until they end, or delete some "
                    f"in {self.files.invitations}"
                )
            # The listener sees the new file and admits this certificate, without a reload.
            self._write(self._invitation(pair.fingerprint), pair.certificate)

    def is_invitation(self, fingerprint: str) -> bool:
        """Whether this is the certificate of an invitation that was not used yet."""
        return self._invitation(fingerprint).exists()

    def _invitation(self, fingerprint: str) -> Path:
        return self.files.invitations / f"{fingerprint.replace(':', '').lower()}.crt"

    # Members

    def check(self, member: Member, me: Member, taken: Collection[str], now_s: float) -> bool:
        """Check that a node can become a member; return False if it is one, with these files.

        taken: names of peers in the configuration. Raises InvalidRequest with the reason.
        """
        check_member(member, now_s)
        others = self.members()
        for each in others:
            # Asked again because the answer was lost: no refusal, and nothing to write.
            if each.member.client_der == member.client_der and each.name == member.name:
                return False
            # Without a certificate its files are incomplete, and this call completes them.
            if each.name == member.name and each.member.client_der:
                raise InvalidRequest(f"another member has the name {member.name}; set node-name")
        if me.client_der == member.client_der or me.name == member.name:
            raise InvalidRequest(f"the node that is asked has the name {me.name} itself")
        if member.name in taken:
            raise InvalidRequest(
                f"{me.name} has a peer of the name {member.name} in its configuration; set "
                "node-name, or remove the peer"
            )
        if len(others) + len(taken) >= MEMBERS_MAX:
            raise InvalidRequest(f"{me.name} has {len(others)} members; at most {MEMBERS_MAX}")
        accepted = [path.read_bytes() for path in certificates_in(self.files.accepted)]
        check_tells_apart(accepted, member.client_der)
        return True

    def admit(
        self, joiner: Member, fingerprint: str, me: Member, taken: Collection[str], now_s: float
    ) -> None:
        """Use up the invitation with this fingerprint, then write the joiner's files.

        A crash in between leaves a useless code, and nobody is admitted. Raises NotAllowed for
        an invitation that is not open any more, InvalidRequest as check() does: then it stays open.
        """
        with alone(self.files.root):
            # Before the code is used up: a joiner with a wrong name may correct it and try again.
            new = self.check(joiner, me, taken, now_s)
            if not self._use_up(fingerprint):
                raise NotAllowed("this invitation was used before, or was withdrawn")
            if new:
                self._add(joiner, "invited", None, now_s)

    def add(
        self,
        member: Member,
        via: Via,
        introduced_by: str | None,
        me: Member,
        taken: Collection[str],
        now_s: float,
    ) -> bool:
        """Write the files of a member; return False if it is one already.

        Raises InvalidRequest, and NotAllowed for an introduced one that was removed here.
        """
        with alone(self.files.root):
            if not self.check(member, me, taken, now_s):
                return False
            # What an operator removed here must not come back by another member.
            if via == "introduced" and member.name in self._removed_names():
                raise NotAllowed(f"{member.name} was removed here (`federation members remove`)")
            self._add(member, via, introduced_by, now_s)
            return True

    def remove(self, name: str) -> None:
        """Remove a member, and do not take it from introductions. Raises ConfigError if unknown."""
        with alone(self.files.root):
            if name not in read_members(self.files):
                raise ConfigError(f"no member has the name {name!r}")
            names = [*(each for each in self._removed_names() if each != name), name]
            # Noted first: an introduction during the removal must not bring it back.
            self._write(self._removed, "\n".join(names[-_REMOVED_MAX:]).encode())
            files = self.files
            # Its rights go first; the rest is only how it is reached.
            for path in (files.accepted / f"{name}.crt", files.members / f"{name}.yaml"):
                path.unlink(missing_ok=True)
            (files.members / f"{name}.crt").unlink(missing_ok=True)
            sync_names(files.accepted)
            sync_names(files.members)

    def _removed_names(self) -> list[str]:
        return self._removed.read_text().split() if self._removed.exists() else []

    def _use_up(self, fingerprint: str) -> bool:
        try:
            self._invitation(fingerprint).unlink()
        except FileNotFoundError:
            return False
        # Durable before the joiner is written: a crash must not make the code good again.
        sync_names(self.files.invitations)
        return True

    def _add(self, member: Member, via: Via, introduced_by: str | None, now_s: float) -> None:
        """Write a member's files; what gives it rights is the last, so that it is never alone."""
        removed = self._removed_names()
        if member.name in removed:
            # Somebody invited or joined it here, which takes the removal back.
            removed.remove(member.name)
            self._write(self._removed, "\n".join(removed).encode())
        server = self.files.members / f"{member.name}.crt"
        self._write(server, pem_of(member.server_der))
        own = self.files
        auth = {
            "server-cert": server.name,
            "client-cert": f"../{own.client_cert.name}",
            "client-key": f"../{own.client_key.name}",
        }
        facts = {
            "via": via,
            **({} if introduced_by is None else {"introduced-by": introduced_by}),
            "introduces": via == "inviter",
            "peer": {"name": member.name, "url": member.url, "auth": auth},
        }
        text = _COMMENT.format(at=utc_text(now_s)) + yaml.safe_dump(facts, sort_keys=False)
        self._write(own.members / f"{member.name}.yaml", text.encode())
        self._write(own.accepted / f"{member.name}.crt", pem_of(member.client_der))

    def _check_own(self, member_name: str, url: str, now_s: float) -> None:
        try:
            check_member(self.own(member_name, url), now_s)
        except InvalidRequest as error:
            raise ConfigError(
                f"node-name and mesh.url must stay what the certificates in {self.files.root} are "
                f"for, as the other members know those ({error}). To change them, remove this node "
                "at the others, delete that folder, and join again"
            ) from None

    def _write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        replace_file(path, data, mode)
        self._give(path)

    def _give(self, path: Path) -> None:
        """Give what root has made to the owner of the data directory, who runs the node."""
        # Commands may be run by root, and the node must be able to read and replace its files.
        if os.geteuid() == 0:
            owner = self.files.root.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


_COMMENT = """\
# A member of the mesh, since {at}. `peer` may have all keys of an item of
# `peers` in the configuration. `federation members remove` removes it.
"""


def _der_in(path: Path) -> bytes:
    """Return a certificate; empty if there is none. Raises ConfigError."""
    try:
        return der_of(path.read_bytes())
    except FileNotFoundError:
        return b""
    except ValueError as error:
        raise ConfigError(f"{path}: not a certificate ({error})") from None


def _end_s(path: Path) -> float:
    (listed,) = parse_client_list(path.read_bytes(), str(path)).by_fingerprint.values()
    return listed.until_s
