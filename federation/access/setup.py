"""From a listener's settings and files to what decides who may do what on it.

A listener without TLS and authentication has no files. What reads certificates and tokens is
imported only for the others: it is a tenth of the CPU of a start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from federation.access.access import ListenerAccess, SameForAll
from federation.access.rights import everybody
from federation.access.watched_file import LiveFile
from federation.config.model import Config, ListenerConfig
from federation.core.clock import Clock
from federation.observability.metrics import Metrics

if TYPE_CHECKING:
    from federation.access.files import AccessFiles
    from federation.access.tokens import TokenTable


def load_access(config: Config) -> list[AccessFiles | None]:
    """Read the files of each listener, in their order; blocks. None: it has no files.

    Raises ConfigError that names the listener and the file.
    """
    return [_load(listener, at) for at, listener in enumerate(config.listeners)]


def _load(listener: ListenerConfig, at: int) -> AccessFiles | None:
    if listener.tls is None and listener.auth is None:
        return None
    from federation.access.files import load_files  # noqa: PLC0415 - see above

    return load_files(listener, at)


def make_access(
    config: Config, files: Sequence[AccessFiles | None], metrics: Metrics, clock: Clock
) -> list[ListenerAccess]:
    """Return what each listener needs, in their order; files: what load_access returned."""
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
        return ListenerAccess(None, SameForAll(everybody(push=listener.push)), [])
    from federation.access.guarded import guarded_access  # noqa: PLC0415 - see above

    return guarded_access(listener, where, files, metrics, clock, shared)
