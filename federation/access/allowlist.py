"""The list of client certificates that a listener admits: concatenated PEM, edited by hand.

Certificates are known by the SHA-256 of their DER bytes, so nothing that merely looks like a listed
one, or was signed by it, is on the list. Parsing is all or nothing: a list that is partly
understood would let in, or keep out, others than its owner means.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from federation.core.clock import utc_text
from federation.core.errors import ConfigError

LIST_MAX_BYTES = 16 * 2**20

# `cat` joins a file that lacks its last newline to the next one: markers need no line of their own.
_MARKER = re.compile(r"-----(BEGIN|END) ([^-\r\n]*)-----")
_BROKEN_MARKER = re.compile(
    r"-{2,}[ \t]*(?:BEGIN|END)\b|\b(?:BEGIN|END) (?:X509 )?CERTIFICATE-{2,}"
)
_CERTIFICATE = ("CERTIFICATE", "X509 CERTIFICATE")


class AllowedClient(NamedTuple):
    """One certificate of the list."""

    subject: str  # as RFC 4514 writes it
    since_s: float  # seconds since 1970 UTC, as `until_s`
    until_s: float

    def out_of_date(self, now_s: float) -> str | None:
        """Return why it is not valid at that time; None: it is."""
        if now_s > self.until_s:
            return f"the certificate expired on {utc_text(self.until_s)}"
        if now_s < self.since_s:
            return f"the certificate is not valid before {utc_text(self.since_s)}"
        return None


class ClientList(NamedTuple):
    """A list that was understood as a whole."""

    pem: bytes  # the certificates, each once, without what stood between them
    by_fingerprint: Mapping[str, AllowedClient]


class _Block(NamedTuple):
    number: int
    line: int
    label: str
    body: str


def fingerprint_of(der: bytes) -> str:
    """Return the SHA-256 of a certificate as `openssl x509 -fingerprint -sha256` writes it."""
    return hashlib.sha256(der).digest().hex(":").upper()


def parse_client_list(data: bytes, where: str) -> ClientList:
    """Read a list; text between the certificates, duplicates and any line ends are fine.

    It must end in a whole block or a newline: otherwise it is being written, or was cut off.

    Raises ConfigError, which begins with `where` and names the block that is wrong.
    """
    if len(data) > LIST_MAX_BYTES:
        raise ConfigError(f"{where}: larger than {LIST_MAX_BYTES} bytes")
    found: dict[str, AllowedClient] = {}
    pem = []
    # latin-1 decodes anything: comments may be in whatever encoding their editor used.
    for block in _blocks(data.decode("latin-1"), where):
        place = f"{where}: block {block.number} (line {block.line})"
        der = _der_of(block, place)
        fingerprint = fingerprint_of(der)
        # `cat` of two lists repeats entries, and OpenSSL need not hold them twice.
        if fingerprint not in found:
            found[fingerprint] = _read(der, place)
            pem.append(ssl.DER_cert_to_PEM_cert(der))
    # An empty list is mostly a file that is being written; to let nobody in is never meant.
    if not found:
        raise ConfigError(
            f"{where}: no certificate in it. Nobody could connect; put the PEM certificates of the "
            "clients there, or leave the list out to let in everybody"
        )
    return ClientList("".join(pem).encode(), found)


def _blocks(text: str, where: str) -> Iterator[_Block]:
    begun: re.Match[str] | None = None
    number = 0
    after = 0
    for marker in _MARKER.finditer(text):
        line = text.count("\n", 0, marker.start()) + 1
        kind, label = marker[1], marker[2]
        if kind == "BEGIN":
            number += 1
        place = f"{where}: block {number} (line {line})"
        if begun is None:
            _check_between(text, after, marker.start(), where)
            if kind == "END":
                raise ConfigError(f"{where}: line {line}: END {label} without its BEGIN")
            begun, begun_line = marker, line
            continue
        # A cut-off block would else swallow the next one, and that client would be kept out unseen.
        if kind == "BEGIN" or label != begun[2]:
            raise ConfigError(f"{place}: inside the {begun[2]} that begins in line {begun_line}")
        yield _Block(number, begun_line, label, text[begun.end() : marker.start()])
        begun, after = None, marker.end()
    if begun is not None:
        raise ConfigError(f"{where}: block {number} (line {begun_line}): it has no END")
    _check_between(text, after, len(text), where)
    # Text behind the last block may be the first half of a certificate.
    if after and text[after:].strip() and not text.endswith(("\n", "\r")):
        line = text.count("\n") + 1
        raise ConfigError(
            f"{where}: line {line}: it ends within a line, as if it were cut off; add a newline"
        )


def _check_between(text: str, start: int, end: int, where: str) -> None:
    """Accept comments; refuse a damaged BEGIN or END line."""
    broken = _BROKEN_MARKER.search(text, start, end)
    if broken is not None:
        line = text.count("\n", 0, broken.start()) + 1
        raise ConfigError(f"{where}: line {line}: a broken BEGIN or END line")


def _der_of(block: _Block, place: str) -> bytes:
    if "PRIVATE KEY" in block.label:
        raise ConfigError(
            f"{place}: a private key. It belongs to its client alone: take it out, and have the "
            "client make a new pair"
        )
    if block.label not in _CERTIFICATE:
        raise ConfigError(f"{place}: a {block.label}, not a CERTIFICATE")
    try:
        # Strictly: characters that are skipped would make another certificate of a damaged one.
        return base64.b64decode("".join(block.body.split()), validate=True)
    except ValueError as error:
        raise ConfigError(f"{place}: not base64 ({error})") from None


def _read(der: bytes, place: str) -> AllowedClient:
    try:
        certificate = x509.load_der_x509_certificate(der)
        return AllowedClient(
            certificate.subject.rfc4514_string(),
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
        )
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(f"{place}: not an X.509 certificate ({error})") from None


def alike(lists: Iterable[ClientList]) -> list[list[str]]:
    """Return groups of certificates that TLS cannot tell apart, by fingerprint, over all lists.

    It looks for a trusted certificate by the subject, and takes the first one unless identifiers of
    the keys say which: the owners of the others cannot connect.
    """
    groups: dict[bytes, dict[str, x509.Certificate]] = {}
    for each in lists:
        for fingerprint, certificate in zip(
            each.by_fingerprint, x509.load_pem_x509_certificates(each.pem), strict=True
        ):
            of_subject = groups.setdefault(certificate.subject.public_bytes(), {})
            of_subject[fingerprint] = certificate
    return [list(group) for group in groups.values() if _is_confused(group.values())]


def _is_confused(group: Collection[x509.Certificate]) -> bool:
    """Whether these, of one subject, have several keys, and some lack key identifiers."""
    if len(group) < 2:
        return False
    keys = {_key_of(each) for each in group}
    # With one key in all of them any of them proves its owner, so nobody is kept out.
    return len(keys) > 1 and not all(map(_says_its_key, group))


def _key_of(certificate: x509.Certificate) -> bytes:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return certificate.signature  # a key of its own
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _says_its_key(certificate: x509.Certificate) -> bool:
    try:
        extensions = certificate.extensions
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        found = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return found.value.key_identifier is not None
