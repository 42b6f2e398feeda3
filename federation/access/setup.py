"""From a listener's settings and files to what decides who may do what on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from federation.access.authenticator import Access, Authenticator, SameForAll
from federation.access.files import AccessFiles, load_keys, load_proxied, load_secrets, load_tokens
from federation.access.live_tls import LiveTls
from federation.access.proxy import ProxiedClients
from federation.access.rights import everybody
from federation.access.tls import KeyPair
from federation.access.tokens import TokenTable
from federation.access.watched_file import LiveFile, Watched
from federation.config.model import Config, ListenerConfig
from federation.core.clock import Clock
from federation.observability.metrics import Metrics

T = TypeVar("T")


class ListenerAccess(NamedTuple):
    """One listener's; callers: None where nobody is asked who it is."""

    tls: LiveTls | None
    callers: Authenticator | None
    rights: Access
    watched: list[Watched]

    def warning(self) -> str | None:
        """Return what will soon keep clients away."""
        return self.tls.end_warning() if self.tls is not None else None


def make_access(
    config: Config, files: Sequence[AccessFiles], metrics: Metrics, clock: Clock
) -> list[ListenerAccess]:
    """Return what each listener needs, in their order; files are what was read for it."""
    shared: dict[Path, LiveFile[TokenTable]] = {}
    return [
        _access_of(listener, f"listeners[{at}]", found, metrics, clock, shared)
        for at, (listener, found) in enumerate(zip(config.listeners, files, strict=True))
    ]


def _access_of(
    listener: ListenerConfig,
    where: str,
    files: AccessFiles,
    metrics: Metrics,
    clock: Clock,
    shared: dict[Path, LiveFile[TokenTable]],
) -> ListenerAccess:
    tls = tokens = keys = None
    if listener.tls is not None and files.pair is not None:
        tls = LiveTls(listener.tls, f"{where}.tls", files.pair, clock)
        gauge = metrics.certificate_end.labels(listener=listener.address)
        gauge.set_function(partial(_end_of, tls))
    auth = listener.auth
    if auth is not None and auth.tokens is not None and files.tokens is not None:
        tokens = shared.get(auth.tokens)
        if tokens is None:
            place = f"{where}.auth.tokens"
            load = partial(load_tokens, auth.tokens, place)
            tokens = _live("tokens", place, auth.tokens, load, files.tokens)
            shared[auth.tokens] = tokens
    if auth is not None and auth.jwt is not None and files.keys is not None:
        place = f"{where}.auth.jwt.keys"
        keys = _live(
            "jwt_keys", place, auth.jwt.keys, partial(load_keys, auth.jwt, place), files.keys
        )
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
        return ListenerAccess(tls, None, SameForAll(everybody(push=listener.push)), watched)
    callers = Authenticator(
        listener, where, clock, tls=tls, tokens=tokens, keys=keys, proxied=proxied
    )
    return ListenerAccess(tls, callers, callers, watched)


def _live(what: str, where: str, path: Path, load: Callable[[], T], value: T) -> LiveFile[T]:
    return LiveFile(what, where, [path], load, value, _count)


def _count(value: Any) -> dict[str, Any]:
    return {"count": len(value)}


def _listed(pair: KeyPair) -> dict[str, Any]:
    return {"listed": sum(len(each.by_fingerprint) for each in pair.lists)}


def _end_of(tls: LiveTls) -> float:
    return float("nan") if tls.end_s is None else tls.end_s
