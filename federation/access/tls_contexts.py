"""The TLS contexts of a listener whose handshakes are made in Python.

Each connection gets the context of the files as they are when it comes, so there is nothing to
exchange in a running one. Sessions are not resumed: a client that was removed from a list must not
come back by a ticket.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from federation.access.incoming_call import ShownCertificate
from federation.core.pem_pair import load_pair_into

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls
    from federation.access.tls import KeyPair

HTTP2, HTTP1 = "h2", "http/1.1"  # names of protocols in ALPN
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9113, appendix A, forbids most others of TLS 1.2


class Contexts:
    """The context for new connections, of the current files."""

    def __init__(self, live: LiveTls, protocol: str) -> None:
        """protocol: the only one that is agreed on (ALPN)."""
        self._protocol = protocol
        self._live = live
        self._pair = live.pair
        self._context = make_context(self._pair, self._protocol)

    def __repr__(self) -> str:
        return f"<Contexts of {self._live!r}>"

    def current(self) -> ssl.SSLContext:
        """Return it; made anew when the files have changed."""
        pair = self._live.pair
        if pair is not self._pair:
            self._context, self._pair = make_context(pair, self._protocol), pair
        return self._context


def make_context(pair: KeyPair, protocol: str) -> ssl.SSLContext:
    """Return a context with this certificate; it asks clients for theirs if there are lists.

    The lists are trust anchors as they are: one of them need not be an authority's, or its own.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols([protocol])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    # OP_NO_TICKET is about TLS 1.2 alone; in TLS 1.3 this number is what counts.
    context.num_tickets = 0
    load_pair_into(context, pair.certificate, pair.key)
    if (roots := pair.roots_pem) is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # A listed certificate is trusted by itself, though neither a root nor an authority's.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=roots.decode("ascii"))
    return context


def shown_by(tls: ssl.SSLObject) -> ShownCertificate:
    """Return what the client showed in the handshake."""
    leaf = tls.getpeercert(binary_form=True)
    if leaf is None:
        return ShownCertificate()
    return ShownCertificate(_pem(leaf), b"".join(map(_pem, _chain_of(tls))))


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode("ascii")


def _chain_of(tls: ssl.SSLObject) -> list[bytes]:
    """Return the certificates that the client sent, its own first, as DER."""
    public: Any = getattr(tls, "get_unverified_chain", None)  # since Python 3.13
    if public is not None:
        return list(public())
    found = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in found or ()]
