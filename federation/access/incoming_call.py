"""A call as access sees it: where it comes from and what it shows, by whatever protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol
from urllib.parse import unquote

_MAPPED = "::ffff:"
_KINDS = ("ipv4", "ipv6")


class PeerAddress(NamedTuple):
    """The other end of a connection."""

    text: str  # for logs, and the same for all calls of one connection: "ipv4:1.2.3.4:5"
    host: str  # without brackets, zone or port; an IPv4 address in IPv6 form as IPv4
    port: int  # 0: no TCP connection, e.g. a Unix socket, whose host is its whole text
    caller: str  # what limits call a caller of whom nothing else is known


@lru_cache(maxsize=4096)  # every call asks, and a connection has many
def parse_peer(text: str) -> PeerAddress:
    """Read gRPC's text of a peer: "ipv4:1.2.3.4:5", "ipv6:%5B::1%5D:5", "unix:/run/socket"."""
    kind, _, rest = text.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if kind in _KINDS and port.isdecimal():
        # gRPC writes IPv6 addresses with escaped brackets.
        plain = plain_host(host.strip("[]"))
        return PeerAddress(text, plain, int(port), f"address {plain}")
    return PeerAddress(text, text, 0, f"address {text}")


def plain_host(host: str) -> str:
    """Return an IP address without its zone, and as IPv4 where it is one in IPv6 form."""
    # A listener on [::] sees IPv4 clients in IPv6 form; rules and limits know them as IPv4.
    return host.partition("%")[0].removeprefix(_MAPPED)


Headers = Sequence[tuple[str, str | bytes]]  # names in small letters; a name may come repeatedly


class ShownCertificate(NamedTuple):
    """What a client showed in the TLS handshake, as PEM; empty: nothing."""

    leaf: bytes = b""
    chain: bytes = b""


class IncomingCall(Protocol):
    """What decides about a caller's rights. All of it is known before any message is read."""

    @property
    def peer(self) -> PeerAddress:
        """The other end of the connection."""
        ...

    @property
    def headers(self) -> Headers:
        """The request's headers."""
        ...

    def certificate(self) -> ShownCertificate:
        """Return the client's certificate, whose key the handshake has verified."""
        ...
