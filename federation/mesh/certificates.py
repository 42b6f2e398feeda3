"""What a certificate of a member has to be like before it gets into a file of this node."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Collection, Iterable

from cryptography import x509

from federation.access.allowlist import ClientList, alike, parse_client_list
from federation.access.allowlist_edit import candidate
from federation.config.mesh import authority_of, is_member_name
from federation.config.types import Address
from federation.core.errors import ConfigError, InvalidRequest
from federation.wire.mesh import Member


def pem_of(der: bytes) -> bytes:
    """Return a certificate as PEM; anything else as PEM that no reader takes."""
    return ssl.DER_cert_to_PEM_cert(der).encode("ascii")


def der_of(pem: bytes) -> bytes:
    """Return a certificate as DER. Raises ValueError."""
    return ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip())


def check_member(member: Member, now_s: float) -> None:
    """Check what another node says of itself or of a third one.

    Raises InvalidRequest: for a name or URL that could mean something else in a file, and for
    certificates with which the member could not be reached, or could keep others away.
    """
    if not is_member_name(member.name):
        raise InvalidRequest(
            f"the name {member.name!r}: a member has at most 64 letters, digits, dots, dashes and "
            "underscores; set node-name"
        )
    try:
        address = authority_of(member.url)
        # With the same checks as for a certificate that an operator adds by hand.
        client = candidate(pem_of(member.client_der), f"{member.name}'s client", now_s)
        candidate(pem_of(member.server_der), f"{member.name}'s server", now_s)
        _check_names(member.server_der, address)
    except (ValueError, ConfigError) as error:
        raise InvalidRequest(str(error)) from None
    # The listener knows the member by this certificate, so the two names must be one.
    if client.listed.subject != f"CN={member.name}":
        raise InvalidRequest(f"{member.name}'s client certificate is for {client.listed.subject}")


def check_tells_apart(accepted: Iterable[bytes], new_der: bytes) -> None:
    """Check that TLS can tell a certificate from those accepted already (PEM texts).

    Otherwise a joiner could keep a member out. Raises InvalidRequest.
    """
    lists = [_list_of(each) for each in (*accepted, pem_of(new_der))]
    # OpenSSL would take one for the other, and refuse the member whose key it is not.
    if alike(lists):
        raise InvalidRequest(
            "the client certificate has the subject of another member's, and TLS could not tell "
            "them apart"
        )


def _list_of(pem: bytes) -> ClientList:
    return parse_client_list(pem, "certificates of the mesh")


def _check_names(der: bytes, address: Address) -> None:
    """Raise ValueError unless the certificate is for this host, as `federation keygen` makes it."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise ValueError(f"the server certificate has no names ({error})") from None
    # Host names have no case (RFC 4343).
    names = {name.lower() for name in found.get_values_for_type(x509.DNSName)}
    ips = set(found.get_values_for_type(x509.IPAddress))
    if address.host.lower() not in names and not _is_among(address.host, ips):
        raise ValueError(f"the server certificate is not for {address.host}")


def _is_among(host: str, ips: Collection[object]) -> bool:
    try:
        # Compared as addresses: IPv6 has many spellings of one.
        return ipaddress.ip_address(host) in ips
    except ValueError:
        return False
