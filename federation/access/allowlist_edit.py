"""Adding certificates to a list of clients: what may be added, and the text of the new list."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from federation.access.allowlist import AllowedClient, parse_client_list
from federation.core.clock import utc_text
from federation.core.errors import ConfigError

_RSA_BITS_MIN = 2048
_CURVES = ("secp256r1", "secp384r1")  # what gRPC's TLS takes from a client
_PLAIN = re.compile(r"[A-Za-z0-9 .,=@_+/-]{1,200}")


class Candidate(NamedTuple):
    """A certificate that may be added."""

    where: str  # the file it came from
    fingerprint: str
    listed: AllowedClient
    pem: str


class Authorized(NamedTuple):
    """The edited list, and which candidates are new to it."""

    text: bytes
    added: list[Candidate]
    known: list[Candidate]


def candidate(data: bytes, where: str, now_s: float) -> Candidate:
    """Check one client's certificate.

    Raises ConfigError for anything but one certificate that a client can connect with now or later:
    a private key, several certificates, an expired one, a key that TLS would refuse.
    """
    found = parse_client_list(data, where)
    # A chain has the authority's certificate in it, whose owner would be let in by it.
    if len(found.by_fingerprint) > 1:
        subjects = "; ".join(listed.subject for listed in found.by_fingerprint.values())
        raise ConfigError(
            f"{where}: {len(found.by_fingerprint)} certificates ({subjects}). Each that is listed "
            "is let in: give the client's own alone, without its chain"
        )
    ((fingerprint, listed),) = found.by_fingerprint.items()
    if now_s > listed.until_s:
        raise ConfigError(f"{where}: {listed.subject} expired on {utc_text(listed.until_s)}")
    _check_key(x509.load_pem_x509_certificate(found.pem), where)
    # Encoded anew: what else stood in the file does not get into the list.
    der = ssl.PEM_cert_to_DER_cert(found.pem.decode())
    return Candidate(where, fingerprint, listed, ssl.DER_cert_to_PEM_cert(der))


def _check_key(certificate: x509.Certificate, where: str) -> None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{where}: its key cannot be read ({error})") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS_MIN:
        return
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return
    if isinstance(key, rsa.RSAPublicKey):
        kind = f"an RSA key of {key.key_size} bits"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind = f"a key on the curve {key.curve.name}"
    else:
        kind = f"a {type(key).__name__}"
    raise ConfigError(
        f"{where}: {kind}. The client could not connect with it: use RSA of at least "
        f"{_RSA_BITS_MIN} bits, or EC on {' or '.join(_CURVES)}"
    )


def authorize(before: bytes, where: str, candidates: Sequence[Candidate]) -> Authorized:
    """Return the list with the candidates at its end; what it has already is not added again.

    The text that is there stays as it is. Raises ConfigError when it is not a good list, so that a
    broken one is not edited further.
    """
    begun = b"BEGIN" in before  # an empty list is fine here
    known = set(parse_client_list(before, where).by_fingerprint) if begun else set()
    # Otherwise the comment would end up in the last line that is there.
    text = before if not before or before.endswith(b"\n") else before + b"\n"
    added: list[Candidate] = []
    twice: list[Candidate] = []
    for each in candidates:
        if each.fingerprint in known:
            twice.append(each)
            continue
        known.add(each.fingerprint)
        added.append(each)
        text += f"{_comment(each)}\n{each.pem}".encode()
    if added:
        # The result is read as the node will read it, before anything is written.
        parse_client_list(text, where)
    return Authorized(text, added, twice)


def _comment(each: Candidate) -> str:
    """Return a comment line that identifies the certificate for people."""
    subject = each.listed.subject
    # A subject is chosen by its owner, and could hold a marker or a new line.
    shown = subject if _PLAIN.fullmatch(subject) and "--" not in subject else "?"
    return f"# {shown}, until {utc_text(each.listed.until_s)}, SHA-256 {each.fingerprint}"
