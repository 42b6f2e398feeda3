"""Certificates for tests: made on the spot, signed by themselves."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


class Files(NamedTuple):
    certificate: Path
    key: Path


_HOSTS = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
_DAY = dt.timedelta(days=1)


def self_signed(
    folder: Path,
    name: str = "server",
    password: bytes | None = None,
    *,
    hosts: Sequence[x509.GeneralName] = _HOSTS,
    expired: bool = False,
    early: bool = False,
    issuer: Files | None = None,
    serial: int | None = None,
    cn: str | None = None,
    days: float = 30,
    authority: bool = False,
    subject: x509.Name | None = None,
) -> Files:
    """Write <name>.crt and <name>.key, by default for localhost and 127.0.0.1.

    early: not valid before tomorrow. issuer: whose key signs it, instead of its own. cn: its
    common name, if not name. days: until its end. authority: it may sign others.
    subject: its whole subject.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn or name)])
    now = dt.datetime.now(dt.UTC)
    since, until = (now - 2 * _DAY, now - _DAY) if expired else (now - _DAY, now + days * _DAY)
    if early:
        since, until = now + _DAY, now + 2 * _DAY
    above = subject
    signing: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = key
    if issuer is not None:
        above = x509.load_pem_x509_certificate(issuer.certificate.read_bytes()).subject
        loaded = serialization.load_pem_private_key(issuer.key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        signing = loaded
    serial = serial or x509.random_serial_number()
    builder = (
        x509.CertificateBuilder(above, subject, key.public_key(), serial)
        .not_valid_before(since)
        .not_valid_after(until)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    if authority:
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
    certificate = builder.sign(signing, hashes.SHA256())
    files = Files(folder / f"{name}.crt", folder / f"{name}.key")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secrecy = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secrecy))
    files.key.chmod(0o600)
    return files
