"""The token and certificates of a remote: read from their files, and again when those change.

What is in them is never logged. A change that cannot be used, such as a half-written file, leaves
in place what was there before.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import NamedTuple, NoReturn

import structlog

from federation.core.clock import Clock
from federation.remote.failures import FailureKind, RemoteFailed, failure
from federation.remote.settings import RemoteSettings

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 5.0
_FILE_MAX_BYTES = 2**20
_TOKEN_MAX_CHARS = 8 * 1024  # servers refuse more than that in the headers of a call


class Certificates(NamedTuple):
    """PEM texts; None: gRPC's own roots, or no certificate of our own."""

    roots: bytes | None = None
    key: bytes | None = None
    chain: bytes | None = None

    def __repr__(self) -> str:
        return "<Certificates>"


class Secrets(NamedTuple):
    """The contents of the files."""

    certificates: Certificates = Certificates()
    token: str | None = None

    def __repr__(self) -> str:
        return "<Secrets>"


_Stamp = tuple[int, int, int]


class SecretFiles:
    """Reads the files again when they change; current() returns the last valid contents."""

    def __init__(self, settings: RemoteSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        files = (
            settings.server_cert,
            settings.client_cert,
            settings.client_key,
            settings.access_token,
        )
        self._files = [file for file in files if file is not None]
        self._stamps: list[_Stamp | None] = []
        self._secrets: Secrets | None = None if self._files else Secrets()
        self._look_at_s = 0.0
        self._looking = asyncio.Lock()

    async def current(self) -> Secrets:
        """Return the secrets. Raises RemoteFailed when they could never be read."""
        if not self._files:
            return Secrets()
        if self._secrets is None or self._clock.monotonic_s() >= self._look_at_s:
            # However many calls find that a look is due, one makes it for all of them.
            async with self._looking:
                if self._secrets is None or self._clock.monotonic_s() >= self._look_at_s:
                    await self._look()
        assert self._secrets is not None
        return self._secrets

    def look_soon(self) -> None:
        """Check the files before the next call: the remote refused their contents."""
        self._look_at_s = 0.0

    async def _look(self) -> None:
        # In a thread: the files may be on a network folder that hangs.
        stamps = await asyncio.to_thread(self._stamp_all)
        self._look_at_s = self._clock.monotonic_s() + _LOOK_EVERY_S
        if self._secrets is not None and stamps == self._stamps:
            return
        try:
            self._secrets = await asyncio.to_thread(self._read)
        except RemoteFailed as error:
            if self._secrets is None:
                # Each call tries again: without any secrets it cannot go out anyway.
                self._look_at_s = 0.0
                raise
            _log.warning("remote_secrets_not_read", remote=self._settings.name, reason=str(error))
        # Also after a failure: a half-written file is read again once it changes.
        self._stamps = stamps

    def _stamp_all(self) -> list[_Stamp | None]:
        return [_stamp(file) for file in self._files]

    def _read(self) -> Secrets:
        settings = self._settings
        certificates = Certificates(
            roots=self._bytes_of(settings.server_cert, FailureKind.CERTIFICATE),
            key=self._bytes_of(settings.client_key, FailureKind.CERTIFICATE),
            chain=self._bytes_of(settings.client_cert, FailureKind.CERTIFICATE),
        )
        self._check(certificates)
        return Secrets(certificates, self._token())

    def _check(self, certificates: Certificates) -> None:
        """Check that certificates are usable: gRPC would report it in its own log only."""
        settings = self._settings
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if certificates.roots is not None:
                context.load_verify_locations(cadata=certificates.roots.decode("ascii", "replace"))
            if settings.client_cert is not None:
                context.load_cert_chain(settings.client_cert, settings.client_key, _no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            detail = f"its certificates or key cannot be used ({reason})"
            raise failure(settings.name, FailureKind.CERTIFICATE, detail) from None

    def _token(self) -> str | None:
        data = self._bytes_of(self._settings.access_token, FailureKind.DENIED)
        if data is None:
            return None
        # Editors and `echo` end a file with a new line.
        token = data.decode("ascii", "replace").strip()
        usable = token.isascii() and token.isprintable() and " " not in token
        if not token or not usable or len(token) > _TOKEN_MAX_CHARS:
            detail = f"access token {self._settings.access_token}: not one word of ASCII characters"
            raise failure(self._settings.name, FailureKind.DENIED, detail)
        return token

    def _bytes_of(self, file: Path | None, kind: FailureKind) -> bytes | None:
        if file is None:
            return None
        try:
            with file.open("rb") as opened:
                # A path may lead to a device or a log by mistake.
                return opened.read(_FILE_MAX_BYTES)
        except OSError as error:
            detail = f"cannot read {file}: {error.strerror or error}"
            raise failure(self._settings.name, kind, detail) from None


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    # The inode as well: tools that rename a new file into place may keep the old one's date.
    return found.st_mtime_ns, found.st_size, found.st_ino


def _no_password() -> NoReturn:
    # Without this OpenSSL would ask on the terminal, and the node would hang at its start.
    raise ValueError("the key needs a password; store it plain")
