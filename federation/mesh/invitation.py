"""An invitation's code, and the certificate that both sites derive from it.

The code has everything that the joining site needs; the inviting site keeps the certificate alone,
which is no secret. Both sites have to derive the same bytes, so nothing in the certificate is drawn
at random, not even its signature (RFC 6979).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import struct
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.access.allowlist import fingerprint_of
from federation.config.types import Address, parse_address
from federation.core.errors import ConfigError
from federation.mesh.certificates import der_of

SECRET_BYTES = 16
HOURS_MAX = 7 * 24
_PREFIX = "fed-"
_HEAD = struct.Struct(f">BI{SECRET_BYTES}s32s")  # version, expiry, secret, fingerprint
_VERSION = 1
_CHECK_BYTES = 4
_CODE_MAX = 600
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
_DERIVED_BYTES = 48  # more than the order has, so that the remainder is not biased
_SINCE = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class Invitation(NamedTuple):
    """What a code says."""

    inviter: Address  # of the inviter's listener
    server_sha256: bytes  # of the certificate of that listener
    secret: bytes
    until_s: int  # seconds since 1970 UTC, by the inviter's clock

    def __repr__(self) -> str:
        return f"<Invitation to {self.inviter}>"  # never the secret

    def code(self) -> str:
        """Return it as one word of letters, digits, dashes and underscores."""
        head = _HEAD.pack(_VERSION, self.until_s, self.secret, self.server_sha256)
        data = head + str(self.inviter).encode()
        return _PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")

    def pair(self) -> InvitationPair:
        """Return the certificate and private key that it stands for."""
        return _derive(self.secret, self.until_s)


class InvitationPair(NamedTuple):
    """PEM texts."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "<InvitationPair>"  # never the key

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, as lists of certificates have it."""
        return fingerprint_of(der_of(self.certificate))


def parse_code(text: str) -> Invitation:
    """Read a code. Raises ConfigError for one that is mistyped, cut off or of a later version."""
    # Mail programs break lines, and terminals wrap them.
    plain = "".join(text.split())
    if not plain.startswith(_PREFIX) or len(plain) > _CODE_MAX:
        raise ConfigError(f"not a code of `federation invite`, which begins with {_PREFIX}")
    encoded = plain.removeprefix(_PREFIX)
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if check != _check(body):
            raise ValueError("its last characters do not fit the others")
        version, until_s, secret, fingerprint = _HEAD.unpack_from(body)
        if version != _VERSION:
            raise ConfigError(f"the code is of version {version}, which this program does not know")
        # A certificate cannot end before it begins.
        if until_s <= _SINCE.timestamp():
            raise ValueError("it ended before there were codes")
        inviter = parse_address(body[_HEAD.size :].decode())
    except (binascii.Error, struct.error, ValueError):
        raise ConfigError(
            "the code is mistyped or not whole; copy all of what `federation invite` has printed"
        ) from None
    return Invitation(inviter, fingerprint, secret, until_s)


def _check(data: bytes) -> bytes:
    """Return what reveals a mistyped code. It guards nothing."""
    return hashlib.sha256(data).digest()[:_CHECK_BYTES]


def _derive(secret: bytes, until_s: int) -> InvitationPair:
    derived = HKDF(hashes.SHA256(), _DERIVED_BYTES, None, b"federation invitation 1").derive(secret)
    # 1 to the order less 1: 0 is no private key.
    private = int.from_bytes(derived, "big") % (_ORDER - 1) + 1
    key = ec.derive_private_key(private, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"invitation {_name_of(key)}")])
    certificate = (
        # The serial number is fixed: both sites have to get the same bytes.
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        # Long ago, as the clocks of the two sites may differ.
        .not_valid_before(_SINCE)
        .not_valid_after(dt.datetime.fromtimestamp(until_s, dt.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return InvitationPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _name_of(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a short name, by which lists and logs tell invitations apart."""
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    return hashlib.sha256(point).hexdigest()[:12]
