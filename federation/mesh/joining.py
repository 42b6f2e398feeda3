"""The joining site's part: recognise the inviter, ask what a join would do, and join."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from federation.core.clock import Clock
from federation.core.errors import ConfigError, FederationError, InvalidRequest, NotAllowed
from federation.mesh.certificates import check_member
from federation.mesh.folder import MeshFolder
from federation.mesh.invitation import Invitation
from federation.remote.credentials import Certificates
from federation.remote.failures import FailureKind, RemoteFailed
from federation.remote.methods import JOIN, PREVIEW, Method
from federation.remote.one_call import call_once, fetch_certificate
from federation.remote.settings import RemoteSettings
from federation.wire.mesh import Joining, Member, encode_join, parse_joining

_NOT_FOR_GOOD = frozenset(
    {FailureKind.UNAVAILABLE, FailureKind.TIMEOUT, FailureKind.CANCELLED, FailureKind.DENIED}
)
_TRIES, _PAUSE_S = 3, 1.0  # the inviter's listener looks for new certificates twice a second


class CodeNotTaken(FederationError):
    """The inviter does not let in whoever shows this code."""

    def __init__(self, inviter: str, reason: str) -> None:
        super().__init__(
            f"{inviter} is the node that the code names, and does not take the code: it was used, "
            f"has expired or was withdrawn ({reason})"
        )


class Taken(NamedTuple):
    """Names of the members whose files were written, and of others with the reason why not."""

    added: list[str]
    refused: list[str]


class Inviter:
    """The inviter as a joiner calls it."""

    def __init__(self, invitation: Invitation, me: Member, own: Certificates, clock: Clock) -> None:
        """own: the certificate and key that this node shows as a member."""
        self._invitation = invitation
        self._me = me
        self._clock = clock
        pair = invitation.pair()
        # The invitation may have been used by this node, and the answer lost on the way: then the
        # inviter knows this node's own certificate.
        self._shown = (Certificates(key=pair.key, chain=pair.certificate), own)
        self._settings = RemoteSettings(
            name=f"inviter {invitation.inviter}", url=f"https://{invitation.inviter}"
        )

    def __repr__(self) -> str:
        return f"<Inviter {self._invitation.inviter}>"

    async def preview(self) -> Joining:
        """Return what join() would answer, and change nothing. Raises as join() does."""
        return await self._ask(PREVIEW)

    async def join(self) -> Joining:
        """Use the invitation. Raises RemoteFailed, CodeNotTaken, ConfigError."""
        return await self._ask(JOIN)

    async def _ask(self, method: Method) -> Joining:
        """Ask until the inviter has noticed a new invitation, or a new member."""
        where = self._invitation.inviter
        # No known authority has signed the inviter's certificate, so it is the only root itself.
        server = await fetch_certificate(
            self._settings.name, where, self._invitation.server_sha256, self._shown[0]
        )
        refusal: RemoteFailed | None = None
        for each in self._shown * _TRIES:
            if refusal is not None and each is self._shown[0]:
                await self._clock.sleep(_PAUSE_S)
            try:
                return self._checked(await self._call(method, each._replace(roots=server)))
            except RemoteFailed as error:
                # An answer about the request itself, which would be the same at the next try.
                if error.kind not in _NOT_FOR_GOOD:
                    raise
                # The first refusal is about the code; that of this node's certificate follows it.
                refusal = refusal or error
        assert refusal is not None
        raise CodeNotTaken(str(where), refusal.reason)

    async def _call(self, method: Method, shown: Certificates) -> Joining:
        return parse_joining(await call_once(self._settings, shown, method, encode_join(self._me)))

    def _checked(self, found: Joining) -> Joining:
        """Refuse an inviter that names another address or certificate for itself than the code."""
        expected = f"https://{self._invitation.inviter}"
        if found.inviter.url != expected:
            raise ConfigError(
                f"{self._settings.name}: it says that its URL is {found.inviter.url!r}"
            )
        if hashlib.sha256(found.inviter.server_der).digest() != self._invitation.server_sha256:
            raise ConfigError(
                f"{self._settings.name}: it names another certificate than the code does"
            )
        return found


def problems_of(found: Joining, now_s: float) -> dict[str, str]:
    """Return by name why members that the inviter names cannot be taken."""
    problems = {}
    for member in (found.inviter, *found.others):
        try:
            check_member(member, now_s)
        except InvalidRequest as error:
            problems[member.name] = str(error)
    return problems


def take(folder: MeshFolder, me: Member, found: Joining, taken: set[str], now_s: float) -> Taken:
    """Write the files of the inviter and of all that it introduces; blocks.

    Raises InvalidRequest if the inviter itself cannot be taken.
    """
    added, refused = [], []
    if folder.add(found.inviter, "inviter", None, me, taken, now_s):
        added.append(found.inviter.name)
    for member in found.others:
        try:
            if folder.add(member, "introduced", found.inviter.name, me, taken, now_s):
                added.append(member.name)
        # One that cannot be taken must not keep this node from the others.
        except (InvalidRequest, NotAllowed) as error:
            refused.append(f"{member.name}: {error}")
    return Taken(added, refused)
