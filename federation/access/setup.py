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
    from federation.access.fetched_keys import FetchedKeys
    from federation.access.files import AccessFiles
    from federation.access.tokens import TokenTable


class LoadedFiles(NamedTuple):
    """The files of all that callers reach; None: it has none."""

    listeners: Sequence[AccessFiles | None]  # in their order
    http: AccessFiles | None = None


class NodeAccess(NamedTuple):
    """What the listeners need, in their order, and the HTTP address."""

    listeners: list[ListenerAccess]
    http: ListenerAccess | None  # None: it has neither TLS nor authentication

    @property
    def all(self) -> list[ListenerAccess]:
        """All of them."""
        return [*self.listeners, *([] if self.http is None else [self.http])]

    def warnings(self) -> list[str]:
        """Return what keeps clients away, or soon will; each once."""
        # Listeners that share a URL of keys have the same trouble.
        return list(dict.fromkeys(text for each in self.all for text in each.warnings()))


class Shared(NamedTuple):
    """What those share that name the same source: it is read and watched once."""

    tokens: dict[Path, LiveFile[TokenTable]]
    keys: dict[tuple[object, ...], FetchedKeys]


def load_access(config: Config) -> LoadedFiles:
    """Read the files of the listeners and of the HTTP address; blocks.

    Raises ConfigError that names the listener and the file.
    """
    read: dict[Path, TokenTable] = {}
    # All before any listener opens: a mistake in the last file must not leave half a node.
    listeners = [_load(each, f"listeners[{at}]", read) for at, each in enumerate(config.listeners)]
    http = config.http.as_listener()
    return LoadedFiles(listeners, None if http is None else _load(http, "http", read))


def _load(listener: ListenerConfig, place: str, read: dict[Path, TokenTable]) -> AccessFiles | None:
    if listener.tls is None and listener.auth is None:
        return None
    from federation.access.files import load_files  # noqa: PLC0415 - see above

    return load_files(listener, place, read)


def make_access(config: Config, files: LoadedFiles, metrics: Metrics, clock: Clock) -> NodeAccess:
    """Return what decides about callers; files: what load_access read."""
    shared = Shared({}, {})
    listeners = [
        _make(listener, f"listeners[{at}]", found, metrics, clock, shared)
        for at, (listener, found) in enumerate(zip(config.listeners, files.listeners, strict=True))
    ]
    http = config.http.as_listener()
    if http is None:
        return NodeAccess(listeners, None)
    return NodeAccess(listeners, _make(http, "http", files.http, metrics, clock, shared))


def make_http_access(
    config: Config, files: AccessFiles | None, metrics: Metrics, clock: Clock
) -> ListenerAccess | None:
    """Return what the HTTP address needs in a process that serves nothing else; None: nothing."""
    http = config.http.as_listener()
    if http is None:
        return None
    # No listener here has anything that could be shared.
    return _make(http, "http", files, metrics, clock, Shared({}, {}))


def _make(
    listener: ListenerConfig,
    where: str,
    files: AccessFiles | None,
    metrics: Metrics,
    clock: Clock,
    shared: Shared,
) -> ListenerAccess:
    if files is None:
        return ListenerAccess(None, open_to_all(listener), [])
    from federation.access.guarded import guarded_access  # noqa: PLC0415 - see above

    return guarded_access(listener, where, files, metrics, clock, shared)
