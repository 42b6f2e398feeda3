"""A call as access sees it: where it comes from and what it shows, by whatever protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from federation.access.peer_address import PeerAddress

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
