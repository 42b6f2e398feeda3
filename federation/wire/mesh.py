"""The messages of federation.v1.Mesh: nodes that become peers of each other by invitation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from federation._proto.federation.v1 import mesh_pb2 as mesh
from federation.core.errors import InvalidRequest, RequestTooLarge
from federation.wire.bounds import read_request

CERTIFICATE_MAX_BYTES = 8 * 1024
MEMBERS_MAX = 64  # in one message, and of a mesh
_TEXT_MAX = 300


class Member(NamedTuple):
    """What others need to know of a member. As received it is not checked beyond its size."""

    name: str
    url: str
    server_der: bytes  # the certificate of its listener
    client_der: bytes  # the certificate that it shows


class Joining(NamedTuple):
    """The answer to Preview and Join."""

    inviter: Member
    others: list[Member]


def encode_join(joiner: Member) -> bytes:
    """Return a serialized JoinRequest."""
    return mesh.JoinRequest(joiner=_message(joiner)).SerializeToString()


def parse_join(data: bytes) -> Member:
    """Return the joiner of a JoinRequest. Raises InvalidRequest, DecodeError."""
    return _member(read_request(mesh.JoinRequest, data).joiner)


def encode_joining(inviter: Member, others: Iterable[Member]) -> bytes:
    """Return a serialized JoinResponse."""
    response = mesh.JoinResponse(inviter=_message(inviter), others=map(_message, others))
    return response.SerializeToString()


def parse_joining(data: bytes) -> Joining:
    """Read a JoinResponse. Raises InvalidRequest, DecodeError."""
    response = read_request(mesh.JoinResponse, data)
    return Joining(_member(response.inviter), _members(response.others))


def encode_introduction(members: Iterable[Member]) -> bytes:
    """Return a serialized IntroduceRequest."""
    return mesh.IntroduceRequest(members=map(_message, members)).SerializeToString()


def parse_introduction(data: bytes) -> list[Member]:
    """Return the members of an IntroduceRequest. Raises InvalidRequest, DecodeError."""
    return _members(read_request(mesh.IntroduceRequest, data).members)


def encode_introduced(added: Iterable[str], refused: Iterable[str]) -> bytes:
    """Return a serialized IntroduceResponse."""
    return mesh.IntroduceResponse(added=added, refused=refused).SerializeToString()


def parse_introduced(data: bytes) -> list[str]:
    """Return the refusals in an IntroduceResponse. Raises DecodeError, InvalidRequest."""
    refused = read_request(mesh.IntroduceResponse, data).refused
    # They go into the log as they come from another node.
    return [each[:_TEXT_MAX] for each in refused[:MEMBERS_MAX]]


def _message(member: Member) -> mesh.Member:
    return mesh.Member(
        name=member.name,
        url=member.url,
        server_certificate=member.server_der,
        client_certificate=member.client_der,
    )


def _members(messages: Sequence[mesh.Member]) -> list[Member]:
    if len(messages) > MEMBERS_MAX:
        raise RequestTooLarge("message.fields", f"{len(messages)} members; at most {MEMBERS_MAX}")
    return [_member(each) for each in messages]


def _member(message: mesh.Member) -> Member:
    found = Member(
        message.name, message.url, message.server_certificate, message.client_certificate
    )
    # They get into files and messages before anybody has looked at them.
    if max(len(found.name), len(found.url)) > _TEXT_MAX:
        raise InvalidRequest(f"a name or url of more than {_TEXT_MAX} characters")
    if max(len(found.server_der), len(found.client_der)) > CERTIFICATE_MAX_BYTES:
        raise InvalidRequest(f"a certificate of more than {CERTIFICATE_MAX_BYTES} bytes")
    return found
