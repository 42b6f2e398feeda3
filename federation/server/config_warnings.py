"""What a configuration allows that its owner may not have meant."""

from __future__ import annotations

from typing import NamedTuple

from federation.access.tls import is_exposed, lacks_names
from federation.config.model import Config, ListenerConfig
from federation.config.types import parse_address


class Advice(NamedTuple):
    """An event name for the log, and the same as a sentence."""

    event: str
    text: str


def advice(config: Config) -> list[Advice]:
    """Return the warnings for a configuration whose TLS files are known to be there; blocks."""
    found = []
    for listener in config.listeners:
        if _anyone_pushes(listener) and not parse_address(listener.address).is_loopback:
            text = f"{listener.address}: whoever reaches this address may push"
            found.append(Advice("anyone_may_push", text))
        if listener.tls and is_exposed(listener.tls.server_key):
            text = f"{listener.tls.server_key}: other users of this machine may read this key"
            found.append(Advice("key_exposed", text))
        if listener.tls and lacks_names(listener.tls.server_cert):
            text = (
                f"{listener.tls.server_cert}: no subject alternative name; BuildStream takes that, "
                "clients written in Go, Rust or Java (Bazel, moon) do not: `federation keygen "
                "server HOST` makes a certificate that all take"
            )
            found.append(Advice("certificate_without_names", text))
    return found


def _anyone_pushes(listener: ListenerConfig) -> bool:
    if not listener.push or (listener.tls is not None and listener.tls.asks_clients):
        return False
    return listener.auth is None or listener.auth.anonymous == "push"
