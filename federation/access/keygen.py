"""Makes key pairs whose certificates every client's TLS library accepts.

A certificate signed by itself, with the names in the subject alternative name, not an authority,
for one purpose. Keys are EC P-256 or RSA: gRPC's TLS takes neither Ed25519 nor P-521.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.config.types import parse_address
from federation.core.errors import ConfigError

KeyType = Literal["ec", "rsa"]
Purpose = Literal["server", "client"]

DAYS_MAX = 36500
_RSA_BITS = 3072
_COMMON_NAME_MAX = 64  # RFC 5280, ub-common-name
_SKEW = dt.timedelta(hours=1)  # the other machine's clock may be behind
_PURPOSES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


class Made(NamedTuple):
    """The PEM texts of a certificate and its private key (PKCS #8, no password)."""

    certificate: bytes
    key: bytes


def make_pair(
    purpose: Purpose, names: Sequence[str], key_type: KeyType, now_s: float, days: int
) -> Made:
    """Return a new pair, valid from an hour ago; the first name is its common name too.

    Args:
        purpose: what its owner does in a connection.
        names: host names and IP addresses of a server; what to call a client.
        key_type: kind of private key.
        now_s: seconds since 1970 UTC.
        days: how long it is valid.

    Raises ConfigError for a name that a certificate cannot have.
    """
    alternatives = [_alternative(name, purpose) for name in names]
    if len(names[0]) > _COMMON_NAME_MAX:
        raise ConfigError(f"{names[0]}: longer than the {_COMMON_NAME_MAX} characters of a CN")
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if key_type == "ec":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key = rsa.generate_private_key(65537, _RSA_BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.fromtimestamp(int(now_s), dt.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key())
    builder = (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        # Not an authority: what it signs is nobody's, and Rust's TLS takes no authority as a peer.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(rsa_key=key_type == "rsa"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_PURPOSES[purpose]]), critical=False)
        # Both identifiers: TLS distinguishes certificates of one subject by them.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    certificate = builder.sign(key, hashes.SHA256())
    return Made(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _alternative(name: str, purpose: Purpose) -> x509.GeneralName:
    try:
        # TLS compares addresses with this kind alone, not with a DNS name that looks like one.
        return x509.IPAddress(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    kind: type[x509.DNSName | x509.RFC822Name] = x509.DNSName
    host = name.removeprefix("*.")
    if purpose == "client":
        host = name.rpartition("@")[2]
        kind = x509.RFC822Name if "@" in name else x509.DNSName
    try:
        parse_address(f"{host}:1")
        return kind(name)
    except ValueError:
        allowed = "a host name or an IP address" + (
            ", or e-mail address" if purpose == "client" else ", without scheme and port"
        )
        raise ConfigError(f"{name!r}: a {purpose} is called by {allowed}") from None


def _usage(*, rsa_key: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        # In TLS 1.2 RSA keys may also encrypt the session's key, which EC keys never do.
        key_encipherment=rsa_key,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
