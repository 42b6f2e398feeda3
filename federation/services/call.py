"""A call as services see it, and how a service says which methods it has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import grpc

from federation.access.rights import Rights, Role
from federation.core import hops
from federation.services.audit import push_accepted
from federation.services.instance_names import InstanceNames, check_length
from federation.services.quotas import CallerQuota, caller_of
from federation.services.request_stream import RequestStream

# Plain numbers compare three times faster.
PULL: Final = int(Role.PULL)
PUSH: Final = int(Role.PUSH)

Context = grpc.aio.ServicerContext[bytes, bytes]


class Call(NamedTuple):
    """One running call, as services see it.

    context must not be touched once the handler has ended: grpc frees what is behind it, and
    asking for the peer then crashes the process. That is why peer is read at the beginning.
    """

    context: Context
    method: str  # "package.Service/Method"
    rights: Rights
    peer: str  # as grpc names it, e.g. "ipv4:127.0.0.1:1234"
    share: CallerQuota | None = None  # None: the caller is not limited
    audit: bool = False
    # Waits until an answer of so many bytes finds room; called before a large one is made.
    room: Callable[[int], Awaitable[None]] | None = None
    # Does the same for what a request becomes when it is unpacked.
    hold: Callable[[int], Awaitable[None]] | None = None
    names: InstanceNames | None = None  # None: whoever writes may use any number of instances

    @property
    def caller(self) -> str:
        """What limits tell callers apart by: an identity, or without one an address."""
        return caller_of(self.rights, self.peer)

    @property
    def is_peer(self) -> bool:
        """Whether the caller may be believed to be a node of ours, as far as its headers say so."""
        return self.rights.is_peer

    @property
    def is_replication(self) -> bool:
        """Whether a peer hands on what it was given: what it says of where from then counts."""
        return self.is_peer and bool(hops.current().via)

    def check_pull(self, instance: str) -> None:
        """Every handler that reads says so, as soon as it knows where. Raises what Rights does."""
        check_length(instance)
        self.rights.check_in(instance, PULL, self.method)

    def check_push(self, instance: str) -> None:
        """The same for handlers that write, before they store anything."""
        check_length(instance)
        self.rights.check_in(instance, PUSH, self.method)
        if instance and self.names is not None and not self.is_peer:
            self.names.check_write(instance, self.caller, self.peer)

    def accepted(self, instance: str, **what: Any) -> None:
        """Every handler that writes says so once it has stored something: for the audit."""
        if self.audit:
            push_accepted(self.rights, self.peer, self.method, instance, what)


NO_OWN_BOUND: Final = 2**31
SMALL_REQUEST: Final = 2**18  # of a method that is asked about one thing
LIST_REQUEST: Final = 2**20  # of one that may name a thousand things


class Unary(NamedTuple):
    """One request, one response.

    One that does not write may be called again with the same request.
    """

    handler: Callable[[bytes, Call], Awaitable[bytes]]
    writes: bool = False
    open_to_all: bool = False  # to whoever is let in at all, without a right
    request_max: int = NO_OWN_BOUND  # bytes of the request; limits.message bounds it, too


class ServerStream(NamedTuple):
    """One request, many responses. The handler is an async generator function."""

    handler: Callable[[bytes, Call], AsyncGenerator[bytes, None]]
    writes: bool = False
    open_to_all: bool = False
    paced: bool = False  # the handler itself sees to it that what it sends finds room
    request_max: int = NO_OWN_BOUND


class ClientStream(NamedTuple):
    """Many requests, one response."""

    handler: Callable[[RequestStream, Call], Awaitable[bytes]]
    writes: bool = False
    open_to_all: bool = False


class BothStreams(NamedTuple):
    """Many requests, many responses. The handler is an async generator function."""

    handler: Callable[[RequestStream, Call], AsyncGenerator[bytes, None]]
    writes: bool = False
    open_to_all: bool = False
    paced: bool = False


Method = Unary | ServerStream | ClientStream | BothStreams


class Service(Protocol):
    """One gRPC service."""

    @property
    def name(self) -> str:
        """Its full name, e.g. "google.bytestream.ByteStream"."""
        ...

    def methods(self) -> Mapping[str, Method]:
        """Its methods by name; one that is not here is UNIMPLEMENTED."""
        ...
