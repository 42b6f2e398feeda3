"""Clients whose certificates a reverse proxy saw: it ends their TLS and names them in a header.

The header counts from the proxy's addresses only; anybody else's is as if it were not there. The
proxy proves that the client has the key; whether that certificate is let in is decided here, by
comparing the whole of it with a list, as on a listener that ends TLS itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from federation.access.tls import KeyPair
from federation.access.watched_file import LiveFile
from federation.config.auth import ProxyConfig
from federation.core.errors import NotAuthenticated

_HEADER_MAX_CHARS = 64 * 1024

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Connected(Protocol):
    """What is looked at of a call; grpc's context has it."""

    def peer(self) -> str:
        """Return the other side's address as gRPC writes it."""
        ...

    def invocation_metadata(self) -> Any:
        """Return the call's headers as pairs."""
        ...


class ProxiedClients:
    """What a listener behind a proxy believes of whom."""

    def __init__(self, settings: ProxyConfig, listed: LiveFile[KeyPair]) -> None:
        """Take the settings, and the list of clients as a pair without a certificate of its own."""
        self._networks = [ipaddress.ip_network(each) for each in settings.addresses]
        self._header = settings.header
        self._listed = listed

    def __repr__(self) -> str:
        return f"<ProxiedClients of {', '.join(map(str, self._networks))}>"

    @property
    def pair(self) -> KeyPair:
        """The list that counts now."""
        return self._listed.value

    def certificate_of(self, context: Connected) -> bytes:
        """Return the PEM text of the client's certificate; empty: a proxy of ours named none.

        Raises NotAuthenticated for a header that is given more than once, or no certificate.
        """
        if not comes_from(context.peer(), self._networks):
            return b""
        found = [value for key, value in context.invocation_metadata() or () if key == self._header]
        if len(found) > 1:
            raise NotAuthenticated(f"the proxy sent more than one {self._header} header")
        if not found or not found[0]:
            return b""
        if not isinstance(found[0], str) or len(found[0]) > _HEADER_MAX_CHARS:
            raise NotAuthenticated(f"the proxy's {self._header} header is no certificate")
        pem = unquote_to_bytes(found[0])
        if not pem.isascii() or not pem.startswith(b"-----BEGIN CERTIFICATE-----"):
            raise NotAuthenticated(
                f"the proxy's {self._header} header is no percent-encoded PEM certificate"
            )
        return pem


def comes_from(peer: str, networks: Sequence[Network]) -> bool:
    """Whether an address as gRPC writes it (ipv4:1.2.3.4:5, ipv6:[::1]:5) is in one of these."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return False
    host = unquote_to_bytes(rest).decode("ascii", "replace").rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
