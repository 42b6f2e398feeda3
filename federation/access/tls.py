"""Certificates, keys and client lists of a listener: read, checked, and never printed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple, NoReturn

from cryptography import x509

from federation.access.allowlist import LIST_MAX_BYTES, ClientList, parse_client_list
from federation.access.client_ca import Authorities
from federation.config.listeners import TlsConfig
from federation.core.errors import ConfigError

_HELP = {
    FileNotFoundError: "; `federation keygen` makes certificates and keys",
    PermissionError: "; the user that the node runs as has to be able to read it",
}


class KeyPair(NamedTuple):
    """The PEM texts of a certificate chain and its private key, and the admitted clients.

    Without any of the lists every client is admitted.
    """

    certificate: bytes
    key: bytes
    clients: ClientList | None = None
    peers: ClientList | None = None
    authorities: ClientList | None = None
    invitations: ClientList | None = None

    def __repr__(self) -> str:
        return f"<KeyPair {len(self.lists)} lists>"  # never the key

    @property
    def lists(self) -> list[ClientList]:
        """The lists that there are, without invitations, whose end is nothing to report."""
        return [x for x in (self.clients, self.peers, self.authorities) if x is not None]

    @property
    def roots_pem(self) -> bytes | None:
        """What a client's certificate is among, or issued by; None: every client is admitted."""
        admitting = [*self.lists, *([] if self.invitations is None else [self.invitations])]
        return b"\n".join(each.pem for each in admitting) or None


def load_pair(tls: TlsConfig, where: str) -> KeyPair:
    """Read a certificate, its key, which must belong together, and the list; blocks."""
    certificate = _read(tls.server_cert, f"{where}.server-cert")
    key = _read(tls.server_key, f"{where}.server-key")

    # Without it OpenSSL asks on the terminal, and the node hangs at its start.
    def no_password() -> NoReturn:
        raise ConfigError(f"{where}.server-key: {tls.server_key} needs a password; store it plain")

    try:
        # Loaded for its checks alone: gRPC would fail later, and say so in its own log only.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_cert, tls.server_key, no_password)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        hint = "the key does not belong to the certificate"
        if reason != "KEY_VALUES_MISMATCH":
            hint = f"not a PEM certificate and its PEM key ({reason})"
        raise ConfigError(f"{where}: {tls.server_cert}, {tls.server_key}: {hint}") from None
    return KeyPair(
        certificate,
        key,
        load_list(tls.client_certs, f"{where}.client-certs"),
        load_list(tls.peer_certs, f"{where}.peer-certs"),
        _load_authorities(tls.client_ca, f"{where}.client-ca"),
        _load_invitations(tls.invitations, f"{where}.invitations"),
    )


def load_list(path: Path | None, where: str) -> ClientList | None:
    """Read a list of certificates, if there is one; blocks. Raises ConfigError.

    In place of one file it may be a folder: all of its files *.crt, as certificates_in says.
    """
    if path is None:
        return None
    if path.is_dir():
        return parse_client_list(_read_folder(path, where), f"{where}: {path}")
    return parse_client_list(_read(path, where, LIST_MAX_BYTES + 1), f"{where}: {path}")


def certificates_in(folder: Path) -> list[Path]:
    """Return the certificates in a folder: its files *.crt but hidden ones, which are not whole.

    Raises OSError.
    """
    return sorted(x for x in folder.iterdir() if x.suffix == ".crt" and x.name[0] != ".")


def _read_folder(folder: Path, where: str) -> bytes:
    try:
        paths = certificates_in(folder)
    except OSError as error:
        raise ConfigError(f"{where}: {folder}: {error.strerror or error}") from None
    data = b""
    for path in paths:
        # The newline keeps the last line of one file and the first of the next apart.
        data += _read(path, where, LIST_MAX_BYTES + 1) + b"\n"
        if len(data) > LIST_MAX_BYTES:
            break  # parse_client_list refuses it
    return data


def _load_invitations(folder: Path | None, where: str) -> ClientList | None:
    """Read a folder of invitations; None: it has none, or is not there. Raises ConfigError."""
    try:
        # No open invitation is normal, unlike an empty list of clients.
        if folder is None or not folder.is_dir() or not certificates_in(folder):
            return None
    except OSError as error:
        raise ConfigError(
            f"{where}: {folder}: {error.strerror or error}; the user that the node runs as has to "
            "be able to read this folder"
        ) from None
    return load_list(folder, where)


def _load_authorities(path: Path | None, where: str) -> ClientList | None:
    found = load_list(path, where)
    if found is not None:
        # Built for its checks: the start says which certificate is no authority's.
        Authorities(found.pem, f"{where}: {path}")
    return found


def end_of(certificate: bytes) -> float | None:
    """Return until when the first certificate (PEM) is valid, in seconds since 1970 UTC.

    None if it cannot be read here, although OpenSSL accepts it.
    """
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()
    except (ValueError, x509.InvalidVersion):
        return None


def lacks_names(certificate: Path) -> bool:
    """Whether a certificate has no subject alternative name, which many clients need; blocks."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
        parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion, ValueError):
        return True  # a client cannot read them either
    return False


def _read(path: Path, where: str, max_bytes: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes)
    except OSError as error:
        help_text = _HELP.get(type(error), "")
        raise ConfigError(f"{where}: {path}: {error.strerror or error}{help_text}") from None
