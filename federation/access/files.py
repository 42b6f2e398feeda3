"""The files that say who is let in on a listener, each read whole and checked by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from federation.access.jwt_keys import KEYS_MAX_BYTES, JwtKeys, parse_keys
from federation.access.proxy import SECRETS_MAX_BYTES, Secrets, parse_secrets
from federation.access.tls import KeyPair, load_list, load_pair
from federation.access.tokens import TOKENS_MAX_BYTES, TokenTable, parse_tokens
from federation.config.auth import JwtConfig, ProxyConfig
from federation.config.listeners import ListenerConfig
from federation.core.errors import ConfigError

T = TypeVar("T")


class AccessFiles(NamedTuple):
    """What one listener's files say; None: it has no such file."""

    pair: KeyPair | None = None
    tokens: TokenTable | None = None
    keys: JwtKeys | None = None  # of a file; those of a URL are fetched while the node runs
    proxied: KeyPair | None = None
    secrets: Secrets | None = None  # the proxy's


def load_files(listener: ListenerConfig, place: str, read: dict[Path, TokenTable]) -> AccessFiles:
    """Read the files of the listener at this place of the configuration; blocks.

    read: files of tokens that were read for others; those that are read here are added.

    Raises ConfigError.
    """
    where, auth = f"{place}.auth", listener.auth
    tokens = auth.tokens if auth else None
    jwt = auth.jwt if auth else None
    proxy = auth.proxy if auth else None
    # Listeners that share a file must see one version of it.
    if tokens is not None and tokens not in read:
        read[tokens] = load_tokens(tokens, f"{where}.tokens")
    return AccessFiles(
        None if listener.tls is None else load_pair(listener.tls, f"{place}.tls"),
        None if tokens is None else read[tokens],
        None
        if jwt is None or jwt.keys_file is None
        else load_keys(jwt.keys_file, jwt, f"{where}.jwt.keys"),
        None if proxy is None else load_proxied(proxy, f"{where}.proxy"),
        None
        if proxy is None or proxy.secret is None
        else load_secrets(proxy.secret, f"{where}.proxy.secret"),
    )


def load_tokens(path: Path, where: str) -> TokenTable:
    """Read a file of tokens; blocks. Raises ConfigError."""
    try:
        return _load(path, where, TOKENS_MAX_BYTES, parse_tokens)
    except _Absent as error:
        raise ConfigError(
            f"{error}; `federation token new --role push --file {path}` makes it"
        ) from None


def load_keys(path: Path, settings: JwtConfig, where: str) -> JwtKeys:
    """Read a file of keys; blocks. Raises ConfigError."""

    def parse(data: bytes, place: str) -> JwtKeys:
        return parse_keys(data, settings, place)

    return _load(path, where, KEYS_MAX_BYTES, parse)


def load_proxied(settings: ProxyConfig, where: str) -> KeyPair:
    """Read the list of clients behind a proxy; blocks. Raises ConfigError."""
    found = load_list(settings.client_certs, f"{where}.client-certs")
    # A list of clients without a certificate of its own: the proxy has that.
    return KeyPair(b"", b"", clients=found)


def load_secrets(path: Path, where: str) -> Secrets:
    """Read what a proxy shows; blocks. Raises ConfigError."""
    return _load(path, where, SECRETS_MAX_BYTES, parse_secrets)


class _Absent(ConfigError):
    """The file is not there."""


def _load(path: Path, where: str, max_bytes: int, parse: Callable[[bytes, str], T]) -> T:
    place = f"{where}: {path}"
    try:
        with path.open("rb") as file:
            # One byte more shows that it is too large, which the parser then says.
            data = file.read(max_bytes + 1)
    except OSError as error:
        # Told apart, as for this one there is a command that helps.
        kind = _Absent if isinstance(error, FileNotFoundError) else ConfigError
        raise kind(f"{place}: {error.strerror or error}") from None
    return parse(data, place)
