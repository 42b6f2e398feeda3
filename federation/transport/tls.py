"""TLS of one connection, between the bytes of a socket and those of HTTP/2. No socket, no clock.

Each connection gets the context of the files as they are when it comes, so there is nothing to
exchange in a running one. Sessions are not resumed: a client that was removed from a list must not
come back by a ticket.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

from federation.access.incoming_call import ShownCertificate

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls
    from federation.access.tls import KeyPair

_PROTOCOL = "h2"
_RECORD_BYTES = 2**16
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9113, appendix A, forbids most others of TLS 1.2


class TlsRefused(Exception):
    """The handshake failed, or what came is not TLS. reason, detail: OpenSSL's words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Contexts:
    """The context for new connections, of the current files."""

    def __init__(self, live: LiveTls) -> None:
        self._live = live
        self._pair = live.pair
        self._context = make_context(self._pair)

    def __repr__(self) -> str:
        return f"<Contexts of {self._live!r}>"

    def current(self) -> ssl.SSLContext:
        """Return it; made anew when the files have changed."""
        pair = self._live.pair
        if pair is not self._pair:
            self._context, self._pair = make_context(pair), pair
        return self._context


def make_context(pair: KeyPair) -> ssl.SSLContext:
    """Return a context with this certificate; it asks clients for theirs if there are lists.

    The lists are trust anchors as they are: one of them need not be an authority's, or its own.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols([_PROTOCOL])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    # OpenSSL reads files only; these are in memory.
    certificate, key = _in_memory(pair.certificate), _in_memory(pair.key)
    try:
        context.load_cert_chain(f"/proc/self/fd/{certificate}", f"/proc/self/fd/{key}")
    finally:
        os.close(certificate)
        os.close(key)
    if pair.lists:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        roots = b"\n".join(each.pem for each in pair.lists)
        context.load_verify_locations(cadata=roots.decode("ascii"))
    return context


def _in_memory(data: bytes) -> int:
    number = os.memfd_create("pem")
    with open(number, "wb", closefd=False) as file:
        file.write(data)
    return number


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
                if self._tls.selected_alpn_protocol() != _PROTOCOL:
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
            leaf = self._tls.getpeercert(binary_form=True)
            if leaf is None:
                self._shown = ShownCertificate()
            else:
                chain = b"".join(map(_pem, _chain_of(self._tls)))
                self._shown = ShownCertificate(_pem(leaf), chain)
        return self._shown


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode("ascii")


def _chain_of(tls: ssl.SSLObject) -> list[bytes]:
    """Return the certificates that the client sent, its own first, as DER."""
    public: Any = getattr(tls, "get_unverified_chain", None)  # since Python 3.13
    if public is not None:
        return list(public())
    found = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in found or ()]
