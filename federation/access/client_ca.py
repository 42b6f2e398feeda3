"""Verifies that a certificate was issued by one of some authorities, directly or indirectly."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509 import verification

from federation.core.errors import ConfigError, FederationError

_ANY = verification.Criticality.AGNOSTIC
_CHAIN_MAX_BYTES = 64 * 1024
# The verifier's work grows with what the client sent.
_CHAIN_MAX = 10


def _is_authority(
    _policy: verification.Policy, _certificate: x509.Certificate, found: x509.BasicConstraints
) -> None:
    if not found.ca:
        raise ValueError("it is not an authority's (CA:FALSE)")


def _may_sign(
    _policy: verification.Policy, _certificate: x509.Certificate, found: x509.KeyUsage | None
) -> None:
    # Absent is fine, as `openssl x509 -req` leaves it out; present without the bit is not.
    if found is not None and not found.key_cert_sign:
        raise ValueError("its key is not for signing certificates")


def _for_clients(
    _policy: verification.Policy,
    _certificate: x509.Certificate,
    found: x509.ExtendedKeyUsage | None,
) -> None:
    usages = (
        x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,
        x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    )
    if found is not None and not any(usage in found for usage in usages):
        raise ValueError("it is not for clients (extended key usage)")


# Less than browsers ask for: `openssl x509 -req` makes certificates without most extensions.
_OF_AUTHORITIES = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _ANY, _is_authority)
    .may_be_present(x509.KeyUsage, _ANY, _may_sign)
)
_OF_CLIENTS = verification.ExtensionPolicy.permit_all().may_be_present(
    x509.ExtendedKeyUsage, _ANY, _for_clients
)


class NotVouchedFor(FederationError):
    """No authority issued the certificate, or its chain is not valid."""


class Authorities:
    """The trust anchors of client certificates."""

    def __init__(self, pem: bytes, where: str) -> None:
        """Take their certificates; `where` begins messages.

        Raises ConfigError for one that could not have issued any.
        """
        roots = x509.load_pem_x509_certificates(pem)
        for root in roots:
            if not _is_ca(root):
                raise ConfigError(
                    f"{where}: {root.subject.rfc4514_string()} is not an authority's certificate "
                    "(CA:TRUE is missing); certificates of single clients go into client-certs"
                )
        self._store = verification.Store(roots)

    def vouch(self, leaf: x509.Certificate, chain_pem: bytes, now_s: float) -> float:
        """Return until when the chain to an authority is valid (seconds since 1970 UTC).

        chain_pem: what the client sent with it. Raises NotVouchedFor.
        """
        if len(chain_pem) > _CHAIN_MAX_BYTES:
            raise NotVouchedFor(f"it came with a chain of {len(chain_pem)} bytes")
        verifier = (
            verification.PolicyBuilder()
            .store(self._store)
            # The caller's clock, as for all other dates of certificates.
            .time(datetime.fromtimestamp(now_s, UTC))
            .extension_policies(ca_policy=_OF_AUTHORITIES, ee_policy=_OF_CLIENTS)
            .build_client_verifier()
        )
        try:
            chain = x509.load_pem_x509_certificates(chain_pem) if chain_pem else []
            found = verifier.verify(leaf, chain[:_CHAIN_MAX]).chain
        except (verification.VerificationError, ValueError) as error:
            raise NotVouchedFor(f"no authority in client-ca issued it ({error})") from None
        # An intermediate or root may end before the leaf does.
        return min(each.not_valid_after_utc.timestamp() for each in found)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
