"""Clients behind a reverse proxy that terminates TLS and passes their certificate in a header.

The header is trusted from the proxy's addresses only, and ignored from all others. Other programs
may connect from there, too, and certificates are public: so a secret identifies the proxy. The
proxy has verified that the client has the key; whether that certificate is admitted is decided
here, by comparing the whole of it with a list, as on a listener that terminates TLS itself.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from federation.access.incoming_call import Headers, IncomingCall, PeerAddress
from federation.access.tls import KeyPair
from federation.access.watched_file import LiveFile
from federation.config.auth import ProxyConfig
from federation.core.errors import ConfigError, NotAuthenticated

_HEADER_MAX_CHARS = 64 * 1024
SECRETS_MAX_BYTES = 64 * 1024
_SECRET_MIN, _SECRET_MAX = 32, 1024  # characters

Secrets = tuple[bytes, ...]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxiedClients:
    """The clients of a listener behind a proxy."""

    def __init__(
        self,
        settings: ProxyConfig,
        listed: LiveFile[KeyPair],
        secrets: LiveFile[Secrets] | None = None,
    ) -> None:
        """Take the settings, and what is read from files.

        Args:
            settings: the proxy's addresses and headers.
            listed: the list of clients as a pair without a certificate of its own.
            secrets: any of which the proxy sends; None: it needs none.
        """
        self._networks = [ipaddress.ip_network(each) for each in settings.addresses]
        self._header = settings.header
        self._listed = listed
        self._secret_header = settings.secret_header
        self._secrets = secrets

    def __repr__(self) -> str:
        return f"<ProxiedClients of {', '.join(map(str, self._networks))}>"

    @property
    def pair(self) -> KeyPair:
        """The current list."""
        return self._listed.value

    def certificate_of(self, call: IncomingCall) -> bytes:
        """Return the client's certificate as PEM; empty: the call has none, or is not the proxy's.

        Raises NotAuthenticated for a header that is given more than once or is not one certificate,
        and for one without the proxy's secret.
        """
        if not comes_from(call.peer, self._networks):
            return b""
        headers = call.headers
        found = [value for key, value in headers if key == self._header]
        # A proxy that appends its own to one of the client's would let the client choose.
        if len(found) > 1:
            raise NotAuthenticated(f"the proxy sent more than one {self._header} header")
        # Some proxies send an empty header for a client without a certificate.
        if not found or not found[0]:
            return b""
        # Before the certificate is parsed: other programs of the machine must not get that far.
        self._check_secret(headers)
        if not isinstance(found[0], str) or len(found[0]) > _HEADER_MAX_CHARS:
            raise NotAuthenticated(f"the proxy's {self._header} header is no certificate")
        # nginx's $ssl_client_escaped_cert; a header cannot hold the line ends of PEM.
        pem = unquote_to_bytes(found[0])
        if not pem.isascii() or not pem.startswith(b"-----BEGIN CERTIFICATE-----"):
            raise NotAuthenticated(
                f"the proxy's {self._header} header is no percent-encoded PEM certificate"
            )
        # Which of several is the client's own is the sender's word, so none is taken.
        if (count := pem.count(b"-----BEGIN ")) > 1:
            raise NotAuthenticated(
                f"the proxy's {self._header} header has {count} certificates; it has to send the "
                "client's own alone, without its chain"
            )
        return pem

    def _check_secret(self, headers: Headers) -> None:
        """Raise NotAuthenticated if the proxy's secret is required and not sent."""
        if self._secrets is None:
            return
        shown = [value for key, value in headers if key == self._secret_header]
        if len(shown) != 1 or not isinstance(shown[0], str):
            raise NotAuthenticated(f"the {self._header} header came without {self._secret_header}")
        given = shown[0].encode("utf-8", "surrogateescape")
        # All are compared, each in constant time, so that timing reveals nothing.
        matches = [hmac.compare_digest(given, secret) for secret in self._secrets.value]
        if not any(matches):
            raise NotAuthenticated(f"the {self._secret_header} header is not the proxy's secret")


def parse_secrets(data: bytes, where: str) -> Secrets:
    """Read a file of secrets, one a line. Raises ConfigError, which does not repeat any."""
    found = tuple(line.strip() for line in data.splitlines() if line.strip())
    for number, secret in enumerate(found, 1):
        usable = secret.isascii() and secret.decode("latin-1").isprintable() and b" " not in secret
        if not usable or not _SECRET_MIN <= len(secret) <= _SECRET_MAX:
            raise ConfigError(
                f"{where}: secret {number} has to be one word of {_SECRET_MIN} to {_SECRET_MAX} "
                "ASCII characters: `openssl rand -hex 32` makes one"
            )
    if not found:
        raise ConfigError(f"{where}: no secret in it: `openssl rand -hex 32` makes one")
    return found


def comes_from(peer: PeerAddress, networks: Sequence[Network]) -> bool:
    """Whether a connection comes from an address in one of these networks."""
    # A Unix socket has no address, and the configuration names addresses only.
    if not peer.port:
        return False
    try:
        address = ipaddress.ip_address(peer.host)
    except ValueError:
        return False
    return any(address in network for network in networks)
