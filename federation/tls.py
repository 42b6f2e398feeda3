"""Certificates and keys of a listener: read, checked as a pair, and never printed."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import NamedTuple, NoReturn

from federation.config import Config, Tls
from federation.errors import ConfigError


class KeyPair(NamedTuple):
    """The PEM texts of a certificate chain and its private key."""

    certificate: bytes
    key: bytes


def load_pairs(config: Config) -> list[KeyPair | None]:
    """Return each listener's pair, None for plain text, in their order; blocks.

    Raises ConfigError that names the listener and the file.
    """
    return [
        None if listener.tls is None else load_pair(listener.tls, f"listeners[{i}].tls")
        for i, listener in enumerate(config.listeners)
    ]


def load_pair(tls: Tls, where: str) -> KeyPair:
    """Read a certificate and its key and see that they belong together; blocks."""
    certificate = _read(tls.server_cert, f"{where}.server-cert")
    key = _read(tls.server_key, f"{where}.server-key")

    def no_password() -> NoReturn:
        raise ConfigError(f"{where}.server-key: {tls.server_key} needs a password; store it plain")

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_cert, tls.server_key, no_password)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        hint = "the key does not belong to the certificate"
        if reason != "KEY_VALUES_MISMATCH":
            hint = f"not a PEM certificate and its PEM key ({reason})"
        raise ConfigError(f"{where}: {tls.server_cert}, {tls.server_key}: {hint}") from None
    return KeyPair(certificate, key)


def is_exposed(key: Path) -> bool:
    """Whether other users of the machine may read this private key; blocks."""
    return bool(key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {path}: {error.strerror or error}") from None
