"""federation.v1.Mesh: nodes that join by invitation (protos/federation/v1)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Mapping

import structlog

from federation.access.allowlist import fingerprint_of
from federation.core.clock import Clock
from federation.core.errors import InvalidRequest, NotAllowed
from federation.mesh.folder import KnownMember, MeshFolder
from federation.services.call import Call
from federation.services.method import SMALL_REQUEST, Method, Unary
from federation.wire.mesh import (
    Member,
    encode_introduced,
    encode_joining,
    parse_introduction,
    parse_join,
)

_log = structlog.get_logger(__name__)
_JOIN_REQUEST = 2**15
# Members with two certificates each of the largest size.
_INTRODUCTION = 4 * SMALL_REQUEST


class MeshService:
    """Admits joiners by their certificates, which the handshake has verified.

    The methods are open to all that the listener lets in, since an invitation has no right to
    anything else; each looks the caller's certificate up by itself.
    """

    name = "federation.v1.Mesh"

    def __init__(
        self,
        folder: MeshFolder,
        me: Callable[[], Member],
        peer_names: Callable[[], Collection[str]],
        clock: Clock,
    ) -> None:
        """Serve the mesh of this folder.

        me: returns this node as a member; blocks. peer_names: of all peers now, members or not.
        """
        self._folder = folder
        self._me = me
        self._peer_names = peer_names
        self._clock = clock

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "Preview": Unary(self._preview, open_to_all=True, request_max=_JOIN_REQUEST),
            "Join": Unary(self._join, open_to_all=True, request_max=_JOIN_REQUEST),
            "Introduce": Unary(self._introduce, open_to_all=True, request_max=_INTRODUCTION),
        }

    async def _preview(self, data: bytes, call: Call) -> bytes:
        return await self._answered(data, call, admits=False)

    async def _join(self, data: bytes, call: Call) -> bytes:
        return await self._answered(data, call, admits=True)

    async def _answered(self, data: bytes, call: Call, *, admits: bool) -> bytes:
        caller = _caller(call)
        return await call.in_time(
            asyncio.to_thread(self._answer, data, call.peer, caller, admits=admits)
        )

    def _answer(self, data: bytes, peer: str, fingerprint: str, *, admits: bool) -> bytes:
        """Answer a joiner, in a thread; fingerprint: of what it has shown."""
        joiner = parse_join(data)
        members = self._folder.members()
        # A joiner that lost the answer asks again with its own certificate, and gets the answer
        # again.
        is_member = _is_shown_by(fingerprint, members, joiner)
        if not is_member and not self._folder.is_invitation(fingerprint):
            raise NotAllowed("this certificate is no open invitation: its code was used")
        me, taken, now_s = self._me(), self._taken(members), self._clock.wall_s()
        if not is_member and admits:
            self._folder.admit(joiner, fingerprint, me, taken, now_s)
            _log.info(
                "member_joined", member=joiner.name, url=joiner.url, invitation=fingerprint,
                fingerprint=fingerprint_of(joiner.client_der), peer=peer,
            )  # fmt: skip
        elif not is_member:
            self._folder.check(joiner, me, taken, now_s)
        # A member without a certificate is known by another means, which cannot be passed on.
        others = [x.member for x in members if x.name != joiner.name and x.member.client_der]
        return encode_joining(me, others)

    async def _introduce(self, data: bytes, call: Call) -> bytes:
        return await call.in_time(asyncio.to_thread(self._introduced, data, _caller(call)))

    def _introduced(self, data: bytes, fingerprint: str) -> bytes:
        introduced = parse_introduction(data)
        members = self._folder.members()
        by = next((x for x in members if x.fingerprint == fingerprint), None)
        # Only the node that invited this one: a member that was let in does not decide who else is.
        if by is None or not by.config.introduces:
            raise NotAllowed("introductions are taken of the node that invited this one alone")
        # One that cannot be taken does not keep out the others.
        added, refused = [], []
        for member in introduced:
            try:
                if self._add_introduced(member, by.name, members):
                    added.append(member.name)
            except (InvalidRequest, NotAllowed) as error:
                refused.append(f"{member.name}: {error}")
        if refused:
            _log.warning("introductions_refused", by=by.name, reasons=refused)
        return encode_introduced(added, refused)

    def _add_introduced(self, member: Member, by: str, members: list[KnownMember]) -> bool:
        me = self._me()
        # The inviter tells all members of all, this one included.
        if member.client_der == me.client_der:
            return False
        taken, now_s = self._taken(members), self._clock.wall_s()
        added = self._folder.add(member, "introduced", by, me, taken, now_s)
        if added:
            _log.info("member_introduced", member=member.name, url=member.url, by=by)
        return added

    def _taken(self, members: list[KnownMember]) -> set[str]:
        """Return the names of peers that the configuration itself has."""
        return set(self._peer_names()) - {each.name for each in members}


def _caller(call: Call) -> str:
    """Return the SHA-256 of the caller's certificate. Raises NotAllowed if there is none."""
    leaf = call.transport.certificate().leaf
    if not leaf:
        raise NotAllowed("members show a client certificate")
    return fingerprint_of(ssl.PEM_cert_to_DER_cert(leaf.decode("ascii").strip()))


def _is_shown_by(fingerprint: str, members: list[KnownMember], joiner: Member) -> bool:
    """Whether the caller is the joiner itself, admitted before."""
    return any(
        each.fingerprint == fingerprint and each.member.client_der == joiner.client_der
        for each in members
    )
