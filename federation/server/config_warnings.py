"""Warnings about configurations that allow more than their owner may have intended."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from federation.access.exposed_files import is_exposed, writable_by_others
from federation.config.model import Config, HttpConfig, ListenerConfig, TlsConfig
from federation.config.types import parse_address
from federation.config.upstreams import AuthConfig


class Advice(NamedTuple):
    """An event name for the log, and the same as a sentence."""

    event: str
    text: str


def advice(config: Config, file: Path | None = None) -> list[Advice]:
    """Return the warnings for a configuration whose files are known to be good; blocks.

    file: where it was read from, if it was.
    """
    found = []
    for listener in config.listeners:
        if _anyone_pushes(listener) and not parse_address(listener.address).is_loopback:
            text = f"{listener.address}: whoever reaches this address may push"
            found.append(Advice("anyone_may_push", text))
        if (passes := _proxy_for_all(listener)) is not None:
            found.append(Advice("proxy_without_secret", passes))
    for listener in _guarded(config):
        if listener.tls is not None:
            found += _about_tls(listener, listener.tls)
    found += _about_pages(config.http)
    return found + _about_files(config, file) + _about_others(config)


def _guarded(config: Config) -> list[ListenerConfig]:
    """Return everything that has TLS or authentication as a listener has it."""
    http = config.http.as_listener()
    return [*config.listeners, *([] if http is None else [http])]


def _about_pages(http: HttpConfig) -> list[Advice]:
    if http.address is None or http.asks_callers:
        return []
    if not http.is_open:
        text = (
            f"{http.address}: all pages but health are refused, as nobody can be an admin there: "
            "set http.auth, or client certificates in http.tls, or http.pages: open"
        )
        return [Advice("pages_for_nobody", text)]
    if not parse_address(http.address).is_loopback:
        return [Advice("pages_open", f"{http.address}: whoever reaches it sees all pages")]
    return []


def _about_tls(listener: ListenerConfig, tls: TlsConfig) -> list[Advice]:
    # Not above: a node without TLS need not import what reads certificates.
    from federation.access.allowlist import alike  # noqa: PLC0415
    from federation.access.live_tls import ALIKE  # noqa: PLC0415
    from federation.access.tls import lacks_names, load_pair  # noqa: PLC0415

    found = []
    if is_exposed(tls.server_key):
        text = f"{tls.server_key}: other users of this machine may read this key"
        found.append(Advice("key_exposed", text))
    if lacks_names(tls.server_cert):
        text = (
            f"{tls.server_cert}: no subject alternative name; BuildStream takes that, "
            "clients written in Go, Rust or Java (Bazel, moon) do not: `federation keygen "
            "server HOST` makes a certificate that all take"
        )
        found.append(Advice("certificate_without_names", text))
    if tls.asks_clients:
        groups = alike(load_pair(tls, listener.address).lists)
        texts = [f"{listener.address}: {', '.join(group)}: {ALIKE}" for group in groups]
        found += [Advice("listed_clients_alike", text) for text in texts]
    return found


def _proxy_for_all(listener: ListenerConfig) -> str | None:
    """Warn where any program at the proxy's address can act as the proxy."""
    proxy = listener.auth.proxy if listener.auth else None
    if proxy is None or proxy.secret is not None:
        return None
    # Programs of this machine can pass for the proxy only where it connects by loopback.
    if not any(ipaddress.ip_network(each).is_loopback for each in proxy.addresses):
        return None
    return (
        f"{listener.address}: every program of this machine that has a listed client's "
        "certificate, which is no secret, passes for that client: put a secret (`openssl rand -hex "
        "32`) into a file, name it in auth.proxy.secret, and have the proxy send it in "
        "x-proxy-secret"
    )


def _about_files(config: Config, file: Path | None) -> list[Advice]:
    found = []
    for secret in dict.fromkeys(_secrets(config)):
        if is_exposed(secret):
            text = f"{secret}: other users of this machine may read this secret: chmod o= {secret}"
            found.append(Advice("secret_exposed", text))
    deciding = [*([] if file is None else [file]), *_deciding(config), *_secrets(config)]
    # Several listeners name the same files; each is told once.
    for each in dict.fromkeys(deciding):
        if (what := writable_by_others(each)) is not None:
            text = (
                f"{each}: other users of this machine may write {what}, and so decide who may do "
                f"what here: chmod o-w {what}"
            )
            found.append(Advice("file_writable", text))
    return found


def _about_others(config: Config) -> list[Advice]:
    """Warn of files for other servers that cannot be read: they may come later, so no error."""
    found = []
    others = [(f"upstreams[{at}]", x.name, x.auth) for at, x in enumerate(config.upstreams)]
    others += [(f"peers[{at}]", x.name, x.auth) for at, x in enumerate(config.peers)]
    for place, name, auth in others:
        for key in ("server_cert", "client_cert", "client_key", "access_token"):
            path: Path | None = getattr(auth, key)
            why = None if path is None else _unreadable(path)
            if why is not None:
                where = f"{place}.auth.{key.replace('_', '-')}: {path}"
                text = f"{where}: {why}; {name} is not asked until it can be read"
                found.append(Advice("file_unreadable", text))
    return found


def _unreadable(path: Path) -> str | None:
    try:
        path.open("rb").close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _secrets(config: Config) -> Iterator[Path]:
    """Yield files that only the node's user should read; a listener's key has its own event."""
    for listener in _guarded(config):
        jwt = listener.auth.jwt if listener.auth else None
        proxy = listener.auth.proxy if listener.auth else None
        if proxy is not None and proxy.secret is not None:
            yield proxy.secret
        if jwt is not None and any(name.startswith("HS") for name in jwt.algorithms):
            yield from [] if jwt.keys_file is None else [jwt.keys_file]
    for auth in _of_others(config):
        yield from (path for path in (auth.access_token, auth.client_key) if path is not None)
    if config.traces.access_token is not None:
        yield config.traces.access_token
    if config.storage.objects is not None and config.storage.objects.credentials is not None:
        yield config.storage.objects.credentials


def _deciding(config: Config) -> Iterator[Path]:
    """Yield files that decide who is admitted with which rights, and whom this node trusts."""
    for listener in _guarded(config):
        tls, auth = listener.tls, listener.auth
        paths: list[Path | None] = []
        if tls is not None:
            paths += [tls.client_certs, tls.peer_certs, tls.client_ca]
            paths += [tls.server_cert, tls.server_key]
        if auth is not None:
            paths += [auth.tokens]
            paths += [auth.jwt.keys_file, auth.jwt.keys_server_cert] if auth.jwt else []
            paths += [auth.proxy.client_certs if auth.proxy else None]
        yield from (path for path in paths if path is not None)
    for other in _of_others(config):
        found = (other.server_cert, other.credential_helper)
        yield from (path for path in found if path is not None)
    if config.traces.server_cert is not None:
        yield config.traces.server_cert


def _of_others(config: Config) -> list[AuthConfig]:
    return [*(each.auth for each in config.upstreams), *(each.auth for each in config.peers)]


def _anyone_pushes(listener: ListenerConfig) -> bool:
    if not listener.push or (listener.tls is not None and listener.tls.asks_clients):
        return False
    return listener.auth is None or listener.auth.anonymous == "push"
