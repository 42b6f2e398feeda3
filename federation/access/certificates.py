"""What a client's certificate allows: one that is listed, or that a client CA issued.

Certificates are compared whole. gRPC's handshake has the lists among its trust roots, so it also
lets in what a listed certificate signed; here that is refused.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cryptography import x509

from federation.access.allowlist import AllowedClient, ClientList, fingerprint_of
from federation.access.client_ca import Authorities, NotVouchedFor
from federation.access.rights import Instances, Role
from federation.access.tls import KeyPair
from federation.config.auth import ClientRule
from federation.config.certificate_patterns import NamePattern, Parts, SubjectPattern
from federation.core.errors import NotAllowed

_CERTIFICATE_MAX_BYTES = 64 * 1024
_NAMES_MAX = 200
_NETWORKS = (
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)  # in name constraints only
_SUBJECT_MAX_CHARS = 150  # the fingerprint follows, so clipping is not ambiguous


class Granted(NamedTuple):
    """What a certificate allows, and until when."""

    identity: str
    role: Role | None
    instances: Instances
    until_s: float


class ClientRefused(NotAllowed):
    """A client is not admitted; fingerprint and subject are for the log."""

    def __init__(self, reason: str, fingerprint: str = "", subject: str = "") -> None:
        super().__init__(f"this listener does not admit this client: {reason}")
        self.reason = reason
        self.fingerprint = fingerprint
        self.subject = subject


class ClientRights:
    """One version of the lists and rules of a listener."""

    def __init__(self, pair: KeyPair, rules: Sequence[ClientRule], where: str) -> None:
        self._pair = pair
        self._rules = [
            (_Rule(rule), Role.named(rule.role), Instances(rule.instances)) for rule in rules
        ]
        authorities = pair.authorities
        self._authorities = Authorities(authorities.pem, where) if authorities else None

    def grant(self, leaf_pem: bytes, chain_pem: bytes, now_s: float) -> Granted:
        """Return what a certificate, shown with this chain, allows.

        Raises ClientRefused for one that is not admitted.
        """
        fingerprint = _fingerprint_of(leaf_pem)
        peer = _find(self._pair.peers, fingerprint)
        invitation = _find(self._pair.invitations, fingerprint)
        client = _find(self._pair.clients, fingerprint)
        listed = peer or client or invitation
        leaf, dates = _read(leaf_pem, fingerprint, listed)
        subject, until_s = dates.subject, dates.until_s
        reason = dates.out_of_date(now_s)
        # Whoever is listed needs no chain: its owner vouched for exactly this certificate.
        if listed is None and reason is None:
            try:
                until_s = self._vouched_until(leaf, chain_pem, now_s)
            except NotVouchedFor as error:
                reason = str(error)
        if reason is not None:
            raise ClientRefused(reason, fingerprint, subject)
        identity = f"certificate {subject[:_SUBJECT_MAX_CHARS]} {fingerprint}"
        # Before the rules: a peer has the same rights whatever its subject says.
        if peer is not None:
            return Granted(identity, Role.PEER, Instances(), until_s)
        if client is None and invitation is not None:
            return Granted(identity, None, Instances(), until_s)  # federation.v1.Mesh lets it join
        role, instances = self._ruled(leaf, fingerprint)
        return Granted(identity, role, instances, until_s)

    def _vouched_until(self, leaf: x509.Certificate, chain_pem: bytes, now_s: float) -> float:
        if self._authorities is None:
            raise NotVouchedFor("the certificate is not in the list")
        return self._authorities.vouch(leaf, chain_pem, now_s)

    def _ruled(self, leaf: x509.Certificate, fingerprint: str) -> tuple[Role | None, Instances]:
        # As the old server had it: who is on the list may push.
        if not self._rules:
            return Role.PUSH, Instances()
        subject, names = _parts_of(leaf.subject), list(_names_of(leaf))
        for rule, role, instances in self._rules:
            if rule.matches(subject, names, fingerprint):
                return role, instances
        return None, Instances()


def _fingerprint_of(leaf_pem: bytes) -> str:
    """Return the fingerprint of a certificate that may be anything. Raises ClientRefused."""
    if not leaf_pem:
        raise ClientRefused("no certificate was shown")
    # Before it is parsed: strangers choose what they show, where an authority lets them in.
    if len(leaf_pem) > _CERTIFICATE_MAX_BYTES:
        raise ClientRefused(f"a certificate of {len(leaf_pem)} bytes")
    try:
        # Of the bytes as shown: an attribute more or less is another certificate.
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(leaf_pem.decode("ascii")))
    except ValueError as error:
        raise ClientRefused(f"it is not one PEM certificate ({error})") from None


def _read(
    leaf_pem: bytes, fingerprint: str, listed: AllowedClient | None
) -> tuple[x509.Certificate, AllowedClient]:
    """Return a certificate, with its subject and dates. Raises ClientRefused."""
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
        # The subject and dates of a listed certificate were read with the list.
        return leaf, listed or AllowedClient(
            leaf.subject.rfc4514_string(),
            leaf.not_valid_before_utc.timestamp(),
            leaf.not_valid_after_utc.timestamp(),
        )
    except (ValueError, x509.InvalidVersion) as error:
        raise ClientRefused(f"it cannot be read ({error})", fingerprint) from None


def _find(listed: ClientList | None, fingerprint: str) -> AllowedClient | None:
    return None if listed is None else listed.by_fingerprint.get(fingerprint)


class _Rule:
    """The certificates that a rule matches."""

    def __init__(self, rule: ClientRule) -> None:
        self._subject = None if rule.subject is None else SubjectPattern(rule.subject)
        self._name = None if rule.name is None else NamePattern(rule.name)
        self._fingerprint = rule.fingerprint

    def matches(self, subject: Parts, names: Sequence[tuple[str, str]], fingerprint: str) -> bool:
        """Whether all conditions of the rule hold."""
        return (
            (self._subject is None or self._subject.matches(subject))
            and (self._name is None or any(self._name.matches(*each) for each in names))
            and (self._fingerprint is None or self._fingerprint == fingerprint)
        )


def _parts_of(name: x509.Name) -> Parts:
    """Return a subject's parts in the order of RFC 4514; values that are no text are empty."""
    return [
        [
            (each.oid.dotted_string, each.value if isinstance(each.value, str) else "")
            for each in part
        ]
        # RFC 4514, 2.1: texts begin with the last part of the encoding.
        for part in reversed(name.rdns)
    ]


def _names_of(certificate: x509.Certificate) -> Iterator[tuple[str, str]]:
    """Yield kinds and values of its subject alternative names, a bounded number."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return
    # Each rule is compared with each name, and their number is the client's choice.
    for name in list(found.value)[:_NAMES_MAX]:
        if isinstance(name, x509.DNSName):
            yield "dns", name.value
        elif isinstance(name, x509.RFC822Name):
            yield "email", name.value
        elif isinstance(name, x509.UniformResourceIdentifier):
            yield "uri", name.value
        elif isinstance(name, x509.IPAddress) and not isinstance(name.value, _NETWORKS):
            yield "ip", str(name.value)
