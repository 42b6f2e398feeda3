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
from federation.access.live_tls import LiveTls
from federation.access.proxy import ProxiedClients
from federation.access.setup import Shared
from federation.access.tls import KeyPair
from federation.access.watched_file import LiveFile, Watched
from federation.config.auth import JwtConfig
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
    tls = tokens = keys = fetched = None
    if listener.tls is not None and files.pair is not None:
        tls = LiveTls(listener.tls, f"{where}.tls", files.pair, clock)
        gauge = metrics.access.certificate_end.labels(listener=listener.address)
        gauge.set_function(partial(_end_of, tls))
    auth = listener.auth
    if auth is not None and auth.tokens is not None and files.tokens is not None:
        tokens = shared.tokens.get(auth.tokens)
        if tokens is None:
            place = f"{where}.auth.tokens"
            load = partial(load_tokens, auth.tokens, place)
            tokens = _live("tokens", place, auth.tokens, load, files.tokens)
            shared.tokens[auth.tokens] = tokens
    if auth is not None and auth.jwt is not None and auth.jwt.keys_url is not None:
        fetched = _fetched(auth.jwt, metrics, clock, shared)
    if auth is not None and auth.jwt is not None and files.keys is not None:
        assert auth.jwt.keys_file is not None
        place, path = f"{where}.auth.jwt.keys", auth.jwt.keys_file
        keys = _live("jwt_keys", place, path, partial(load_keys, path, auth.jwt, place), files.keys)
    proxied = listed = secrets = None
    if auth is not None and auth.proxy is not None and files.proxied is not None:
        place, path = f"{where}.auth.proxy", auth.proxy.client_certs
        load_listed = partial(load_proxied, auth.proxy, place)
        listed = LiveFile("tls_files", place, [path], load_listed, files.proxied, _listed)
        if (secret := auth.proxy.secret) is not None and files.secrets is not None:
            load_secret = partial(load_secrets, secret, f"{place}.secret")
            secrets = _live("proxy_secret", place, secret, load_secret, files.secrets)
        proxied = ProxiedClients(auth.proxy, listed, secrets)
    found = (tls, tokens, keys, listed, secrets)
    watched: list[Watched] = [each for each in found if each is not None]
    asks = auth is not None or (tls is not None and bool(tls.pair.lists))
    if not asks:
        return ListenerAccess(tls, open_to_all(listener), watched)
    callers = Authenticator(
        listener, where, clock, tls=tls, tokens=tokens, keys=keys or fetched, proxied=proxied
    )
    return ListenerAccess(tls, callers, watched, fetched)


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
