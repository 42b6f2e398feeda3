"""TLS of one connection, between the bytes of a socket and those of HTTP/2. No socket, no clock."""

from __future__ import annotations

import ssl

from federation.access.incoming_call import ShownCertificate
from federation.access.tls_contexts import HTTP2, shown_by

_RECORD_BYTES = 2**16


class TlsRefused(Exception):
    """The handshake failed, or what came is not TLS. reason, detail: OpenSSL's words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class TlsLayer:
    """The server's side of one connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shown: ShownCertificate | None = None
        self.is_ready = False

    def __repr__(self) -> str:
        return f"<TlsLayer {self._tls.version() if self.is_ready else 'in its handshake'}>"

    def receive(self, data: memoryview) -> list[bytes]:
        """Take what came on the socket; return what it says. Raises TlsRefused.

        Whatever happens, take() may have something to be sent.
        """
        self._incoming.write(data)
        try:
            if not self.is_ready:
                self._tls.do_handshake()
                if self._tls.selected_alpn_protocol() != HTTP2:
                    raise TlsRefused("NO_APPLICATION_PROTOCOL", "the client does not speak HTTP/2")
                self.is_ready = True
            found = []
            while piece := self._tls.read(_RECORD_BYTES):
                found.append(piece)
        except ssl.SSLWantReadError:
            return found if self.is_ready else []
        except ssl.SSLZeroReturnError:
            return found
        except ssl.SSLError as error:
            detail = getattr(error, "verify_message", "")
            raise TlsRefused(error.reason or str(error), detail) from None
        return found

    def send(self, data: bytes) -> None:
        """Encrypt what is to be said, for take(). Raises TlsRefused."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise TlsRefused(error.reason or str(error)) from None

    def take(self) -> bytes:
        """Return what is to be sent on the socket."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def end(self) -> None:
        """Say that nothing more will come, for take()."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            return  # the other side has not said so yet, or the handshake is not over

    def shown(self) -> ShownCertificate:
        """Return what the client showed."""
        if self._shown is None:
            self._shown = shown_by(self._tls)
        return self._shown
