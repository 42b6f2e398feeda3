"""What a call needs of its connection."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from federation.access.incoming_call import Headers, PeerAddress, ShownCertificate
from federation.core.store import FilePart


class HttpWire(Protocol):
    """What calls need of their connection."""

    peer: PeerAddress
    is_ending: bool  # no further request is taken on it

    def certificate(self) -> ShownCertificate:
        """Return what the client showed in the TLS handshake."""
        ...

    def headers_of(self, request: web.BaseRequest) -> Headers:
        """Return the request's headers as access reads them."""
        ...

    async def send(self, data: bytes) -> None:
        """Send bytes; returns when more may be sent. Raises CallEnded."""
        ...

    @property
    def sends_files(self) -> bool:
        """Whether send_file() can be called: what is sent is not encrypted here."""
        ...

    async def send_file(self, part: FilePart) -> None:
        """Send a part of a file; returns when more may be sent. Raises CallEnded."""
        ...

    def abort(self) -> None:
        """Reset the connection."""
        ...

    def close(self) -> None:
        """Close the connection once what was sent is on its way."""
        ...

    def wall_s(self) -> float:
        """Return the time."""
        ...
