"""How a service declares its methods, and how each exchanges messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol

from federation.core.store import FilePart
from federation.services.call import Call
from federation.services.request_stream import RequestStream

NO_OWN_BOUND: Final = 2**31
AT_ONCE_REQUEST: Final = 2**12  # bytes of one that may be answered at once
SMALL_ANSWER: Final = 2**14  # bytes; the bound on the number of calls bounds such answers, too
SMALL_REQUEST: Final = 2**18  # of a method that is asked about one thing
LIST_REQUEST: Final = 2**20  # of one that may name a thousand things


# Answers a small request without waiting for anything. None: it would have to wait, or the answer
# has more than SMALL_ANSWER bytes, so the handler is called instead. Nothing that writes has one.
AtOnce = Callable[[bytes, Call], bytes | None]


class Unary(NamedTuple):
    """One request, one response.

    One that does not write may be called again with the same request.
    """

    handler: Callable[[bytes, Call], Awaitable[bytes]]
    writes: bool = False
    open_to_all: bool = False  # to every caller that the listener admits, whatever its rights
    request_max: int = NO_OWN_BOUND  # bytes of the request; limits.message bounds it, too
    at_once: AtOnce | None = None


class Parts(NamedTuple):
    """A message in two parts, so that nobody has to join large ones."""

    begin: bytes
    rest: bytes


Responses = AsyncGenerator[bytes | Parts, None]


class ServerStream(NamedTuple):
    """One request, many responses. The handler is an async generator function."""

    handler: Callable[[bytes, Call], Responses]
    writes: bool = False
    open_to_all: bool = False
    paced: bool = False  # the handler itself keeps within the bounds of memory
    request_max: int = NO_OWN_BOUND
    at_once: AtOnce | None = None  # returns the only message of the answer


class ClientStream(NamedTuple):
    """Many requests, one response."""

    handler: Callable[[RequestStream, Call], Awaitable[bytes]]
    writes: bool = False
    open_to_all: bool = False


class BothStreams(NamedTuple):
    """Many requests, many responses. The handler is an async generator function."""

    handler: Callable[[RequestStream, Call], Responses]
    writes: bool = False
    open_to_all: bool = False
    paced: bool = False


Send = Callable[[bytes | FilePart], Awaitable[None]]


class Exchanged(NamedTuple):
    """A call whose request is in its headers; only the handler knows what is exchanged after them.

    The handler may read messages, send parts of its answer, and returns the last part. It keeps
    within the bounds of memory itself.
    """

    handler: Callable[[RequestStream, Send, Call], Awaitable[bytes]]
    writes: bool = False
    open_to_all: bool = False


Method = Unary | ServerStream | ClientStream | BothStreams | Exchanged


class Service(Protocol):
    """One service: raw bytes in and out, so that it decides itself how to read them."""

    @property
    def name(self) -> str:
        """Its full name, e.g. "google.bytestream.ByteStream"."""
        ...

    def methods(self) -> Mapping[str, Method]:
        """Its methods by name; one that is not here is UNIMPLEMENTED."""
        ...
