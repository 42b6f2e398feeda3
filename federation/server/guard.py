"""The TLS credentials of a listener that admits certain clients only.

gRPC verifies a client's certificate with the lists as its trust roots. That lets in what a listed
certificate signed, and whoever connected while still listed; so each call's certificate is compared
with the lists as they are at that moment, by access/authenticator.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from federation.access.live_tls import LiveTls
    from federation.access.tls import KeyPair


def credentials(live: LiveTls) -> grpc.ServerCredentials:
    """Return credentials for one address; each new connection is met with the current files."""
    shown = live.pair

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        pair = live.pair
        if pair is shown:
            return None
        shown = pair
        return _configuration(pair)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        changed,  # type: ignore[arg-type]  # grpc documents None for "no change"
        bool(shown.lists),
    )


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    roots = b"".join(each.pem for each in pair.lists) or None
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], roots)
