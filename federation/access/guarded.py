"""The access of a listener that has TLS or asks who calls: from its settings and its files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from federation.access.access import ListenerAccess, open_to_all
from federation.access.authenticator import Authenticator
from federation.access.fetched_keys import FetchedKeys
from federation.access.files import AccessFiles, load_keys, load_proxied, load_secrets, load_tokens
from federation.access.jwt_keys import JwtKeys
from federation.access.live_tls import LiveTls
from federation.access.proxy import ProxiedClients
from federation.access.setup import Shared
from federation.access.tls import KeyPair
from federation.access.tokens import TokenTable
from federation.access.watched_file import LiveFile, Watched
from federation.config.auth import JwtConfig, ListenerAuthConfig, ProxyConfig
from federation.config.model import ListenerConfig
from federation.core.clock import Clock
from federation.observability.metrics import Metrics

T = TypeVar("T")


def guarded_access(
    listener: ListenerConfig,
    where: str,
    files: AccessFiles,
    metrics: Metrics,
    clock: Clock,
    shared: Shared,
) -> ListenerAccess:
    """Return the access of a listener with TLS or authentication.

    where: its place in the configuration, for messages. files: what was read for it. shared: what
    those before it have, too.
    """
    auth = listener.auth or ListenerAuthConfig()
    tls = _live_tls(listener, where, files, metrics, clock)
    tokens = _live_tokens(auth.tokens, f"{where}.auth.tokens", files, shared)
    keys = _live_keys(auth.jwt, f"{where}.auth.jwt.keys", files)
    fetched = None
    if auth.jwt is not None and auth.jwt.keys_url is not None:
        fetched = _fetched(auth.jwt, metrics, clock, shared)
    proxied, of_proxy = _behind_proxy(auth.proxy, f"{where}.auth.proxy", files)
    # Several listeners may share one object of tokens, which the node then looks at once.
    watched: list[Watched] = [each for each in (tls, tokens, keys, *of_proxy) if each is not None]
    # With its own certificate alone, a listener asks callers for nothing.
    asks = listener.auth is not None or (tls is not None and bool(tls.pair.lists))
    if not asks:
        return ListenerAccess(tls, open_to_all(listener), watched)
    callers = Authenticator(
        listener, where, clock, tls=tls, tokens=tokens, keys=keys or fetched, proxied=proxied
    )
    return ListenerAccess(tls, callers, watched, fetched)


def _live_tls(
    listener: ListenerConfig, where: str, files: AccessFiles, metrics: Metrics, clock: Clock
) -> LiveTls | None:
    if listener.tls is None or files.pair is None:
        return None
    tls = LiveTls(listener.tls, f"{where}.tls", files.pair, clock)
    gauge = metrics.access.certificate_end.labels(listener=listener.address)
    gauge.set_function(partial(_end_of, tls))
    return tls


def _live_tokens(
    path: Path | None, place: str, files: AccessFiles, shared: Shared
) -> LiveFile[TokenTable] | None:
    if path is None or files.tokens is None:
        return None
    if path not in shared.tokens:
        load = partial(load_tokens, path, place)
        shared.tokens[path] = _live("tokens", place, path, load, files.tokens)
    return shared.tokens[path]


def _live_keys(
    settings: JwtConfig | None, place: str, files: AccessFiles
) -> LiveFile[JwtKeys] | None:
    if settings is None or files.keys is None:
        return None
    path = settings.keys_file
    assert path is not None
    return _live("jwt_keys", place, path, partial(load_keys, path, settings, place), files.keys)


def _behind_proxy(
    settings: ProxyConfig | None, place: str, files: AccessFiles
) -> tuple[ProxiedClients | None, list[Watched]]:
    """Return the clients behind a proxy, and the files that say who they are."""
    if settings is None or files.proxied is None:
        return None, []
    load_listed = partial(load_proxied, settings, place)
    # Of the kind of a listener's lists, so it is logged and counted as those are.
    listed = LiveFile(
        "tls_files", place, [settings.client_certs], load_listed, files.proxied, _listed
    )
    if settings.secret is None or files.secrets is None:
        return ProxiedClients(settings, listed), [listed]
    load_secret = partial(load_secrets, settings.secret, f"{place}.secret")
    secrets = _live("proxy_secret", place, settings.secret, load_secret, files.secrets)
    return ProxiedClients(settings, listed, secrets), [listed, secrets]


def _fetched(settings: JwtConfig, metrics: Metrics, clock: Clock, shared: Shared) -> FetchedKeys:
    """Return the keys at a URL: one object for all who read them in the same way."""
    what = (
        settings.keys_url,
        settings.keys_server_cert,
        settings.keys_refresh,
        settings.keys_max_age,
        tuple(settings.algorithms),
    )
    if what not in shared.keys:
        shared.keys[what] = FetchedKeys(settings, metrics, clock)
    return shared.keys[what]


def _live(what: str, where: str, path: Path, load: Callable[[], T], value: T) -> LiveFile[T]:
    return LiveFile(what, where, [path], load, value, _count)


def _count(value: Any) -> dict[str, Any]:
    return {"count": len(value)}


def _listed(pair: KeyPair) -> dict[str, Any]:
    return {"listed": sum(len(each.by_fingerprint) for each in pair.lists)}


def _end_of(tls: LiveTls) -> float:
    # No value is "not known"; 0 would look like long expired.
    return float("nan") if tls.end_s is None else tls.end_s
