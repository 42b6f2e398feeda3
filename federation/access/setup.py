"""From a listener's settings and files to what decides who may do what on it.

A listener without TLS and authentication has no files. What reads certificates and tokens is
imported only for the others: it is a tenth of the CPU of a start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from federation.access.access import ListenerAccess, open_to_all
from federation.access.watched_file import LiveFile
from federation.config.model import Config, ListenerConfig
from federation.core.clock import Clock
from federation.observability.metrics import Metrics

if TYPE_CHECKING:
    from federation.access.files import AccessFiles
    from federation.access.tokens import TokenTable


class LoadedFiles(NamedTuple):
    """The files of all that callers reach; None: it has none."""

    listeners: Sequence[AccessFiles | None]  # in their order
    http: AccessFiles | None = None


def load_access(config: Config) -> LoadedFiles:
    """Read the files of the listeners and of the HTTP address; blocks.

    Raises ConfigError that names the listener and the file.
    """
    listeners = [_load(each, f"listeners[{at}]") for at, each in enumerate(config.listeners)]
    http = config.http.as_listener()
    return LoadedFiles(listeners, None if http is None else _load(http, "http"))


def _load(listener: ListenerConfig, place: str) -> AccessFiles | None:
    if listener.tls is None and listener.auth is None:
        return None
    from federation.access.files import load_files  # noqa: PLC0415 - see above

    return load_files(listener, place)


def make_http_access(
    config: Config, files: AccessFiles | None, metrics: Metrics, clock: Clock
) -> ListenerAccess | None:
    """Return what the HTTP address needs; None: it has neither TLS nor authentication."""
    listener = config.http.as_listener()
    return None if listener is None else _make(listener, "http", files, metrics, clock, {})


def make_access(
    config: Config, files: Sequence[AccessFiles | None], metrics: Metrics, clock: Clock
) -> list[ListenerAccess]:
    """Return what each listener needs, in their order; files: what load_access read for them."""
    shared: dict[Path, LiveFile[TokenTable]] = {}
    return [
        _make(listener, f"listeners[{at}]", found, metrics, clock, shared)
        for at, (listener, found) in enumerate(zip(config.listeners, files, strict=True))
    ]


def _make(
    listener: ListenerConfig,
    where: str,
    files: AccessFiles | None,
    metrics: Metrics,
    clock: Clock,
    shared: dict[Path, LiveFile[TokenTable]],
) -> ListenerAccess:
    if files is None:
        return ListenerAccess(None, open_to_all(listener), [])
    from federation.access.guarded import guarded_access  # noqa: PLC0415 - see above

    return guarded_access(listener, where, files, metrics, clock, shared)
