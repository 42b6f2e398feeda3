"""Mistakes in who gets into a mesh."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_JOINING = ("tests/mesh/test_joining.py",)
_FOLDER = ("tests/mesh/test_folder.py",)

MESH = [
    Mutant(
        "invitation-used-twice",
        "federation/mesh/folder.py",
        "            if not self._use_up(fingerprint):",
        "            if not self.is_invitation(fingerprint):",
        _FOLDER,
        "A code admits whoever else has it.",
    ),
    Mutant(
        "invitation-has-a-role",
        "federation/access/certificates.py",
        "return Granted(identity, None, Instances(), until_s)",
        "return Granted(identity, Role.PEER, Instances(), until_s)",
        _JOINING,
        "Whoever has a code reads and writes everything until it expires.",
    ),
    Mutant(
        "inviter-not-compared",
        "federation/remote/one_call.py",
        "    if hashlib.sha256(der).digest() != sha256:",
        "    if not der:",
        _JOINING,
        "Somebody between the sites passes for the inviter.",
    ),
    Mutant(
        "everybody-introduces",
        "federation/services/mesh.py",
        "        if by is None or not by.config.introduces:",
        "        if by is None:",
        _JOINING,
        "A member that was let in lets others in.",
    ),
    Mutant(
        "member-speaks-for-another",
        "federation/services/mesh.py",
        "        each.fingerprint == fingerprint and each.member.client_der == joiner.client_der\n",
        "        each.fingerprint == fingerprint\n",
        _JOINING,
        "A member learns who is in the mesh in the name of another node.",
    ),
    Mutant(
        "rights-before-the-entry",
        "federation/mesh/folder.py",
        '        server = self.files.members / f"{member.name}.crt"\n',
        '        server = self.files.members / f"{member.name}.crt"\n'
        '        early = self.files.accepted / f"{member.name}.crt"\n'
        "        self._write(early, pem_of(member.client_der))\n",
        _FOLDER,
        "After an end half-way a node has rights that no entry shows.",
    ),
]
